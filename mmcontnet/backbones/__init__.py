"""Backbones: one file a family. Importing this package registers them all."""

from .cmt import CMT
from .contnet import ConTNet

__all__ = ['CMT', 'ConTNet']
