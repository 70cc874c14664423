"""Backbones: one file a family. Importing this package registers them all."""

from .contnet import ConTNet

__all__ = ['ConTNet']
