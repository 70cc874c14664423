"""Load weights into models, and say what does not fit: mmengine would merely warn."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import UserError, WeightMismatchError
from ..weights.tensors import find_fault, not_finite
from .checkpoints import read_checkpoint

#: For ``needed``: no name in particular.
HALF = r'(?!)'
#: For ``needed``: the backbone. Other parts depend on the classes, and are told only.
BACKBONE = r'(^|\.)backbone\.'


def read_weights(checkpoint: str, entries: Sequence[str] = ('state_dict',)) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, whether it holds more or not.

    Args:
        checkpoint: A local file, or a URL that mmengine knows how to fetch.
        entries: Under which they may be, instead of at the top; mmengine knows the default alone.

    Raises:
        UserError: If the file cannot be read, or holds no dense tensors by their names.
    """
    try:
        if '://' in checkpoint:
            state = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
        else:
            state = read_checkpoint(checkpoint, mmap=True)
    except UserError:
        raise
    except Exception as error:  # each way to fetch has its own
        reason = str(error).partition('\n')[0]
        raise UserError(
            f'checkpoint {checkpoint!r} cannot be fetched: {type(error).__name__}: {reason}'
        ) from error
    if isinstance(state, Mapping):
        state = next((state[entry] for entry in entries if entry in state), state)
    if not isinstance(state, Mapping):
        raise UserError(f'checkpoint {checkpoint!r} holds no tensors by their names')
    # Beside bare tensors there may be anything, but mmengine fails at names that are not strings.
    tensors = {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) or not isinstance(key, str)
    }
    if fault := find_fault(tensors):
        raise UserError(f'checkpoint {checkpoint!r} cannot be loaded: {fault}')
    return tensors


def load_checkpoint(
    module: nn.Module, checkpoint: str, prefix: str = '', needed: str = ''
) -> list[str]:
    """Load a module's tensors from a checkpoint of the whole model.

    Args:
        module: The model, or a part of it.
        checkpoint: See :func:`read_weights`.
        prefix: Of the part's names in the model, e.g. ``'backbone.'``.
        needed: See :func:`load_weights`.

    Returns:
        See :func:`load_weights`.

    Raises:
        UserError: As :func:`read_weights` and :func:`load_weights`.
    """
    weights = {
        name.removeprefix('module.').removeprefix(prefix): tensor
        for name, tensor in read_weights(checkpoint).items()
    }
    return load_weights(module, weights, f'checkpoint {checkpoint!r}', needed)


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, needed: str = ''
) -> list[str]:
    """Load tensors into a module.

    Args:
        module: The module; on the meta device if only the checks are wanted.
        weights: Tensors by their names in the module; others than its are left out.
        source: What holds them, for the message.
        needed: Regular expression of names that must be there; the default is all. Of all names
            half must be there in any case.

    Returns:
        Names of the tensors that stay as they were: what is neither there nor needed.

    Raises:
        WeightMismatchError: If a tensor that is needed is missing or of another shape, or most
            are, if the weights are those of a deeper network, or if they hold NaN or infinity.
    """
    wrong, number = _load_what_fits(module, weights)
    _check_depth(module, weights, source)
    lacking = [name for name in wrong if re.search(needed, name)]
    if needed == HALF and 2 * len(wrong) > number:
        lacking = wrong
    if lacking:
        some = ', '.join(lacking[:3]) + (', ...' if len(lacking) > 3 else '')
        raise WeightMismatchError(
            f'{source} does not fit: {len(lacking)} of {number} tensors of '
            f'{type(module).__name__} are missing or of another shape ({some})'
        )
    # Of other buffers infinity may be the meaning.
    learnt = {name for name, _ in module.named_parameters()}
    learnt |= {name for name, _ in module.named_buffers() if 'running_' in name}
    if names := not_finite((name, weights[name]) for name in sorted(learnt & weights.keys())):
        raise WeightMismatchError(
            f'{source} holds NaN or infinity in {len(names)} tensors ({names[0]}), as a training '
            'that diverged leaves it; take an earlier one'
        )
    return wrong


def _load_what_fits(module: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], int]:
    """Load tensors into a module, whose hooks may adapt them to it; others than its are left out.

    Args:
        module: The module.
        state: Tensors by their names in the module.

    Returns:
        Names of the module's tensors that are missing or of another shape, and how many it has.
    """
    # Old checkpoints lack these counters, and BatchNorm does without.
    names = [name for name in module.state_dict() if not name.endswith('num_batches_tracked')]
    wrong: set[str] = set()
    missing: list[str] = []
    # Also where loading then raises.
    hook = module.register_load_state_dict_post_hook(
        lambda _, incompatible: missing.extend(incompatible.missing_keys)
    )
    with warnings.catch_warnings():
        # A module on the meta device, which only wants to know.
        warnings.filterwarnings('ignore', message='.*copying from a non-meta parameter')
        while True:
            fitting = {name: tensor for name, tensor in state.items() if name not in wrong}
            missing.clear()
            try:
                module.load_state_dict(fitting, strict=False)
                break
            except (RuntimeError, WeightMismatchError) as error:
                found = set(re.findall(r'size mismatch for (\S+):', str(error)))
                if not found:
                    raise
                wrong |= found
                # Another hook may have stopped at the first of them, or have renamed them all.
                if not found & fitting.keys():
                    break
    hook.remove()
    wrong.update(missing)
    return [name for name in names if name in wrong], len(names)


def _check_depth(module: nn.Module, names: Iterable[str], source: str) -> None:
    """Check that weights are not those of a deeper network, which would load without a word.

    Args:
        module: The model or the backbone, with stages as backbones here have them. Stages of its
            that are not built, because no output needs them, may be in the file.
        names: Of the tensors.
        source: What holds them, for the message.

    Raises:
        WeightMismatchError: If a stage has more blocks there.
    """
    for name in names:
        block = re.match(r'((?:.+\.)?stages\.\d+(?:\.blocks)?)\.(\d+)\.', name)
        if block is None:
            continue
        try:
            stage = module.get_submodule(block[1])
        except AttributeError:
            continue
        if block[2] not in dict(stage.named_children()):
            raise WeightMismatchError(
                f'{source} is of a deeper network: it has {block[1]}.{block[2]}, which '
                f'{type(module).__name__} does not'
            )
