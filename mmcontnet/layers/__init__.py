"""The papers' building blocks."""

from .patch_encoder import POS_ENCODINGS, PatchEncoder
from .position import AxialPositionEncoding, RelativePositionBias, SequencePositionEncoding

__all__ = [
    'POS_ENCODINGS',
    'AxialPositionEncoding',
    'PatchEncoder',
    'RelativePositionBias',
    'SequencePositionEncoding',
]
