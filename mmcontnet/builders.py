"""Build what a config names, with random weights, and say where in the config a mistake is."""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import textwrap
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from itertools import chain
from typing import Any, get_args

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry, build_from_cfg, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import UserError

#: Where a network of this package is computed. An exception from there is a defect of ours, unless
#: it is a ValueError, by which our networks refuse arguments and inputs.
_NETWORKS = tuple(f'{__package__}.{name}.' for name in ('backbones', 'layers', 'necks', 'ops'))


@contextmanager
def network_errors(what: str) -> Iterator[None]:
    """Turn what classes of other packages raise for a wrong config or input into a UserError.

    They raise anything for that. Exceptions from within our own networks pass, but for ValueErrors.

    Args:
        what: What fails, for the message.

    Raises:
        UserError: From the original exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, ValueError) and _is_from_our_networks(error):
            raise
        raise UserError(f'{what}: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    text = ' '.join(str(error).strip().partition('\n')[0].split())
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = frames[-1].line or ''  # what was asserted
    return f'{type(error).__name__}: {text}'


def _is_from_our_networks(error: BaseException | None) -> bool:
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if f'{frame.f_globals.get("__name__")}.'.startswith(_NETWORKS):
                return True
        error = error.__cause__ or error.__context__  # upstream's mmengine raises errors anew
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """Have loggers tell errors alone, where what a run will build is built before only to check."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def find_type(registry: Registry, config: Any, key: str) -> Callable[..., Any]:
    """Look up what a config is built by, in the scope that it names or else the current one.

    Args:
        registry: Where it is registered.
        config: A dict with a ``type``.
        key: Of the config, for the message.

    Raises:
        UserError: If the config is no such dict, or nothing is registered by that name.
    """
    if not isinstance(config, Mapping) or 'type' not in config:
        raise UserError(f'{key} must be a dict with a type, got {config!r:.100}')
    found = name = config['type']
    if isinstance(name, str):
        # mmengine raises RuntimeError for names with a dot.
        with registry.switch_scope_and_registry(config.get('_scope_')) as scoped:
            with suppress(RuntimeError):
                found = scoped.get(name)
            known = {*scoped.module_dict, *scoped.root.module_dict}
    if not callable(found):
        close = difflib.get_close_matches(str(name), known, 3) if isinstance(name, str) else ()
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise UserError(f'{key}: no {name!r} is registered as {registry.name}{hint}')
    return found


def check_arguments(
    found: Callable[..., Any], config: Mapping[str, Any], key: str, added: Collection[str] | None
) -> None:
    """Check by its signature that a class or a function takes the arguments of a config.

    Args:
        found: The class or function.
        config: Its arguments; ``type`` and ``_scope_`` are none.
        key: Of the config, for the message.
        added: What its builder adds or takes away; None if the config need not have any argument.

    Raises:
        UserError: For an argument that is not accepted or is misspelt, or one that is missing.
    """
    given, others = set(config) - {'type', '_scope_'}, set(added or ())
    try:
        accepted, required, others_too = _arguments(found)
    except ValueError:  # of what is written in C
        return
    name = getattr(found, '__name__', config.get('type'))
    for argument, kinds in _numbers(found).items():
        # Sequences are annotated as numbers here and there.
        if isinstance(value := config.get(argument), str):
            wanted = ' or '.join(kind.__name__ for kind in kinds)
            raise UserError(f'{key}: {argument} of {name} must be {wanted}, got {value!r:.100}')
    unknown = sorted(given.difference(accepted, others))
    if unknown and not others_too:
        takes = ', '.join(argument for argument in accepted if argument not in others) or 'none'
        raise UserError(f'{key}: {name} has no argument {", ".join(unknown)}; it takes {takes}')
    for argument in unknown:  # somebody may take it, but rather not what is misspelt
        if close := difflib.get_close_matches(argument, {*accepted} - given, 1, 0.8):
            raise UserError(f'{key}: {name} has no argument {argument}; did you mean {close[0]}?')
    if added is not None and (missing := [r for r in required if r not in given | others]):
        raise UserError(f'{key}: {name} needs {", ".join(missing)}')


def _numbers(found: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Return the arguments that are numbers by their annotations, and which kinds these allow."""
    numbers = {}
    for name, parameter in inspect.signature(found).parameters.items():
        hint = parameter.annotation
        kinds = tuple(kind for kind in get_args(hint) or (hint,) if kind is not type(None))
        if kinds and all(kind in (bool, int, float) for kind in kinds):
            numbers[name] = kinds
    return numbers


def _arguments(found: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Return the arguments with names, those that must be given, and whether others can be."""
    functions: list[Any] = [found]
    if inspect.isclass(found):
        inits = [vars(c)['__init__'] for c in found.__mro__[:-1] if '__init__' in vars(c)]
        functions += inits[1:]
    accepted: list[str] = []
    required: list[str] = []
    for i, function in enumerate(functions):
        parameters = list(inspect.signature(function).parameters.values())
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        accepted += [p.name for p in named if p.name not in (*accepted, 'self')]
        if i == 0:
            required = [p.name for p in named if p.default is p.empty]
        rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return accepted, required, False
        if not inspect.isclass(found) or not _hands_on(inits[i] if inits else None, rest):
            break
    return accepted, required, True


def _hands_on(init: Any, rest: str) -> bool:
    """Tell whether all that a constructor does with its ``**rest`` is to give it to the next."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):  # made by a program, or in C
        return False
    given = [
        keyword.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith('super(')
        for keyword in call.keywords
        if keyword.arg is None
    ]
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == rest]
    return len(uses) == 1 and uses[0] in given


def build(registry: Registry, config: Any, key: str, **added: Any) -> Any:
    """Build an object of a config, which stays as it is.

    Args:
        registry: Where the config's ``type`` is registered.
        config: A dict with a ``type``.
        key: Of the config, for the message.
        added: Arguments beside the config's.

    Returns:
        The object.

    Raises:
        UserError: If it cannot be built; with the key and the type of the part that fails.
    """
    find_type(registry, config, key)
    with explained(registry, config, key):
        return registry.build(deepcopy(config), default_args=added)


@contextmanager
def explained(registry: Registry, config: Any, key: str) -> Iterator[None]:
    """Say which part of a config cannot be built, and why.

    Raises:
        UserError: For what is built within it and fails, but for defects of our own networks.
    """
    whole = key, config
    try:
        yield
    except Exception as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code is build_from_cfg.__code__:
                wanted = frame.f_locals['cfg']
                # Heads get parts of train_cfg.
                parts = chain(parts_of(key, config), parts_of(*whole))
                if found := next((part for part in parts if _is_made_of(wanted, part[1])), None):
                    (key, config), registry = found, frame.f_locals['registry']
        part = find_type(registry, config, key)
        if isinstance(error, TypeError):
            check_arguments(part, config, key, None)
        if not isinstance(error, ValueError) and _is_from_our_networks(error):
            raise
        name = config['type'] if isinstance(config['type'], str) else part.__name__
        raise UserError(f'{key}: {name}: {_reason(error)}') from error


def leaf_datasets(key: str, dataset: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Look through wrappers such as RepeatDataset and ConcatDataset; with each one's dotted key."""
    if not isinstance(dataset, Mapping):
        return
    if 'dataset' in dataset:
        yield from leaf_datasets(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from leaf_datasets(f'{key}.datasets.{i}', inner)
    else:
        yield key, dataset


def parts_of(key: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Go through a config and all that it holds, the outer before the inner."""
    parts = [(key, config)]
    for key, part in parts:  # which grows
        yield key, part
        inner = part if isinstance(part, list | tuple) else ()
        named = part.items() if isinstance(part, Mapping) else enumerate(inner)
        parts += [(f'{key}.{name}', value) for name, value in named]


def _is_made_of(wanted: Any, part: Any) -> bool:
    """Tell whether a config is a part of another one, to which its builder may have added."""
    if isinstance(wanted, Mapping) and isinstance(part, Mapping):
        typed = 'type' in part or 'type' not in wanted
        return typed and all(str(wanted.get(key)) == str(value) for key, value in part.items())
    return str(wanted) == str(part)


class _RatesOnCPU(TorchFunctionMode):
    """Drop path rates are read from these tensors, which the meta device cannot."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        cpu = {'device': 'cpu'} if func is torch.linspace else {}
        return func(*args, **cpu, **(kwargs or {}))


def build_model(cfg: Config, *, meta: bool = False) -> nn.Module:
    """Build the model of a config with random weights: nothing is loaded or downloaded.

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        meta: Build it on the meta device, where tensors have no memory, if its constructors can.

    Raises:
        UserError: If there is none, or it cannot be built.
    """
    config = cfg.get('model')
    if config is None:
        raise UserError('the config has no model.backbone')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if isinstance(config, Mapping) and cfg.get('data_preprocessor'):  # as the runner does
        config = {'data_preprocessor': cfg.data_preprocessor, **config}
    if not meta:
        return build(MODELS, config, 'model')
    # Some constructors cannot: what is wrong on the CPU too is said by the second try.
    with suppress(UserError), torch.device('meta'), _RatesOnCPU():
        return build(MODELS, config, 'model').to('meta')
    return build(MODELS, config, 'model').to('meta')
