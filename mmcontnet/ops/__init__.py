"""Functions without parameters."""

from .attention import attention, low_rank_biased_attention
from .conv_gelu import conv_gelu, fuses_gelu
from .gelu_norm_conv import gelu_norm_conv
from .linear import linear
from .local_aggregation import local_aggregation
from .patches import merge_patches, pad_to_multiple, partition_patches
from .position_bias import resize_matrix, resize_spatial
from .reflect_pad import reflect_pad
from .sliding_attention import sliding_attention
from .subsample import subsample

__all__ = [
    'attention',
    'conv_gelu',
    'fuses_gelu',
    'gelu_norm_conv',
    'linear',
    'local_aggregation',
    'low_rank_biased_attention',
    'merge_patches',
    'pad_to_multiple',
    'partition_patches',
    'reflect_pad',
    'resize_matrix',
    'resize_spatial',
    'sliding_attention',
    'subsample',
]
