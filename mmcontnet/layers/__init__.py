"""The papers' building blocks: modules with parameters, one concept a file."""

from .cmt import CMTBlock, LightweightAttention
from .cot import CONTEXTS, CoTLayer, SplitAttention
from .patch_encoder import POS_ENCODINGS, PatchEncoder
from .position import AxialPositionEncoding, RelativePositionBias, SequencePositionEncoding
from .position_bias import BIAS_RESIZES, PositionBias

__all__ = [
    'BIAS_RESIZES',
    'CONTEXTS',
    'POS_ENCODINGS',
    'AxialPositionEncoding',
    'CMTBlock',
    'CoTLayer',
    'LightweightAttention',
    'PatchEncoder',
    'PositionBias',
    'RelativePositionBias',
    'SequencePositionEncoding',
    'SplitAttention',
]
