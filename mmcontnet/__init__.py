"""Hybrid convolution-attention backbones for OpenMMLab 2.x."""

from . import backbones
from .version import __version__

__all__ = ['__version__', 'backbones']
