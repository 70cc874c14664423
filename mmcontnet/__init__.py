"""Hybrid convolution-attention backbones for OpenMMLab 2.x."""

from . import backbones, optimizer
from .version import __version__

__all__ = ['__version__', 'backbones', 'optimizer']
