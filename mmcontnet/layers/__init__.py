"""The papers' building blocks: modules with parameters, one concept a file."""

from .cmt import CMTBlock
from .patch_encoder import POS_ENCODINGS, PatchEncoder
from .position import AxialPositionEncoding, RelativePositionBias, SequencePositionEncoding
from .position_bias import BIAS_RESIZES, PositionBias

__all__ = [
    'BIAS_RESIZES',
    'POS_ENCODINGS',
    'AxialPositionEncoding',
    'CMTBlock',
    'PatchEncoder',
    'PositionBias',
    'RelativePositionBias',
    'SequencePositionEncoding',
]
