"""Necks between backbone and head of classifiers, each for one family."""

from .cmt import CMTNeck
from .cotnet import CoTNetNeck
from .pvt_acmix import PVTACmixNeck

__all__ = ['CMTNeck', 'CoTNetNeck', 'PVTACmixNeck']
