"""What only the classifiers of one family need between backbone and head."""

from .cmt import CMTNeck
from .cotnet import CoTNetNeck
from .pvt_acmix import PVTACmixNeck

__all__ = ['CMTNeck', 'CoTNetNeck', 'PVTACmixNeck']
