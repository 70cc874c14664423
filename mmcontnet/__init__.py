"""Hybrid convolution-attention backbones for OpenMMLab 2.x."""

from . import backbones, necks, optimizer
from .api import create_backbone, list_backbones, register_with_mmpretrain
from .backbones import CMT, ConTNet, CoTNet, PVTACmix, ResNetACmix, SANACmix, SwinACmix
from .version import __version__

__all__ = [
    'CMT',
    'CoTNet',
    'ConTNet',
    'PVTACmix',
    'ResNetACmix',
    'SANACmix',
    'SwinACmix',
    '__version__',
    'backbones',
    'create_backbone',
    'list_backbones',
    'necks',
    'optimizer',
    'register_with_mmpretrain',
]
