"""What only the classifiers of one family need between backbone and head."""

from .cmt import CMTNeck

__all__ = ['CMTNeck']
