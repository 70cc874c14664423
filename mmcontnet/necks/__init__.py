"""What only the classifiers of one family need between backbone and head."""

from .cmt import CMTNeck
from .cotnet import CoTNetNeck

__all__ = ['CMTNeck', 'CoTNetNeck']
