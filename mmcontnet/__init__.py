"""Hybrid convolution-attention backbones for OpenMMLab 2.x."""

from . import backbones, necks, optimizer
from .version import __version__

__all__ = ['__version__', 'backbones', 'necks', 'optimizer']
