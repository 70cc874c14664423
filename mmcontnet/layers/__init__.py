"""The papers' building blocks: modules with parameters, one concept a file."""

from .acmix import COMBINATIONS, SHIFT_INITS, ConvolutionPath, PathSum, SlidingACmix
from .cmt import CMTBlock, LightweightAttention
from .cot import CONTEXTS, CoTLayer, SplitAttention
from .gelu import apply_gelu
from .loading import AdaptiveLoading
from .patch_encoder import POS_ENCODINGS, PatchEncoder
from .position import AxialPositionEncoding, RelativePositionBias, SequencePositionEncoding
from .position_bias import BIAS_RESIZES, PositionBias
from .pvt import PositionedPatchEmbedding, PVTBlock, SpatialReductionACmix
from .resnet import Bottleneck, ResNetStem
from .san import PatchwiseACmix, SANBlock
from .window_acmix import SwinACmixBlock, WindowACmix, shift_mask

__all__ = [
    'BIAS_RESIZES',
    'COMBINATIONS',
    'CONTEXTS',
    'POS_ENCODINGS',
    'SHIFT_INITS',
    'AdaptiveLoading',
    'AxialPositionEncoding',
    'Bottleneck',
    'CMTBlock',
    'CoTLayer',
    'ConvolutionPath',
    'LightweightAttention',
    'PVTBlock',
    'PatchEncoder',
    'PatchwiseACmix',
    'PathSum',
    'PositionBias',
    'PositionedPatchEmbedding',
    'RelativePositionBias',
    'ResNetStem',
    'SANBlock',
    'SequencePositionEncoding',
    'SlidingACmix',
    'SpatialReductionACmix',
    'SplitAttention',
    'SwinACmixBlock',
    'WindowACmix',
    'apply_gelu',
    'shift_mask',
]
