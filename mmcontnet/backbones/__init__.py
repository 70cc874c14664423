"""Backbones: one file a family. Importing this package registers them all."""

from .cmt import CMT
from .contnet import ConTNet
from .cotnet import CoTNet

__all__ = ['CMT', 'CoTNet', 'ConTNet']
