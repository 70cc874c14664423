"""Backbones: one file a family. Importing this package registers them all."""

from .cmt import CMT
from .contnet import ConTNet
from .cotnet import CoTNet
from .pvt_acmix import PVTACmix
from .resnet_acmix import ResNetACmix
from .san_acmix import SANACmix
from .swin_acmix import SwinACmix

__all__ = ['CMT', 'CoTNet', 'ConTNet', 'PVTACmix', 'ResNetACmix', 'SANACmix', 'SwinACmix']
