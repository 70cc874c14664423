"""Models of configs, with random weights, for command lines that check, count or export them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

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
        reason = str(error).strip().partition('\n')[0]
        raise UserError(f'{what}: {type(error).__name__}: {reason}') from error


def _is_from_our_networks(error: BaseException | None) -> bool:
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if f'{frame.f_globals.get("__name__")}.'.startswith(_NETWORKS):
                return True
        error = error.__cause__ or error.__context__  # upstream's mmengine raises errors anew
    return False


def backbone_class(config: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Look up what makes a backbone, in the scope that its config names or else the current one.

    Args:
        config: A config's ``model.backbone``.

    Raises:
        UserError: If nothing is registered by that name.
    """
    found = name = config.get('type')
    if isinstance(name, str):
        # mmengine raises RuntimeError for names with a dot.
        with MODELS.switch_scope_and_registry(config.get('_scope_')) as registry:
            with suppress(RuntimeError):
                found = registry.get(name)
    if not callable(found):
        raise UserError(f'model.backbone: no backbone of type {name!r} is registered')
    return found


def build_model(cfg: Config, *, meta: bool = False) -> nn.Module:
    """Build the model of a config with random weights: nothing is loaded or downloaded.

    Args:
        cfg: Config of a detector, a segmenter or a classifier.
        meta: Build it on the meta device, where tensors have no memory, if its constructors can.

    Raises:
        UserError: If there is none, or it cannot be built.
    """
    if 'backbone' not in (cfg.get('model') or {}):
        raise UserError('the config has no model.backbone')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    if meta:
        # mmpretrain's Swin, for one, reads numbers from tensors, which the meta device cannot.
        # What is wrong on the CPU too is said below.
        with suppress(UserError), network_errors('no meta device'), torch.device('meta'):
            return MODELS.build(deepcopy(cfg.model))
    with network_errors('the model cannot be built'):
        return MODELS.build(deepcopy(cfg.model))
