"""Whether ops and layers may compute a faster form of what the papers write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_forced: ContextVar[bool] = ContextVar('force_reference', default=False)


@contextmanager
def force_reference() -> Iterator[None]:
    """Compute ops and layers step by step, as the papers write them.

    Results are the same up to rounding. Tests and benchmarks compare with it. Counters of MACs need
    it, because some of the faster forms take more MACs, or fewer: sliding attention by tiles, and
    ACmix's convolution path as one convolution. Compiled programs are not affected.
    """
    token = _forced.set(True)
    try:
        yield
    finally:
        _forced.reset(token)


def reference_forced() -> bool:
    """Return whether :func:`force_reference` is in force."""
    return not torch.compiler.is_compiling() and _forced.get()


def runs_eagerly() -> bool:
    """Return whether ops run one by one, and :func:`force_reference` is not in force.

    Compilers fuse by themselves, and exported programs should contain PyTorch's own ops only.
    """
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing() and not _forced.get()
