"""Functions without parameters."""

from .attention import attention, low_rank_biased_attention
from .conv_gelu import conv_gelu, linear_gelu
from .local_aggregation import local_aggregation
from .norm_conv import norm_conv
from .patches import merge_patches, pad_to_multiple, partition_patches
from .position_bias import resize_matrix, resize_spatial
from .reference import force_reference, reference_forced, runs_eagerly
from .reflect_pad import reflect_pad
from .sliding_attention import sliding_attention
from .subsample import subsample

__all__ = [
    'attention',
    'conv_gelu',
    'force_reference',
    'linear_gelu',
    'local_aggregation',
    'low_rank_biased_attention',
    'merge_patches',
    'norm_conv',
    'pad_to_multiple',
    'partition_patches',
    'reference_forced',
    'reflect_pad',
    'resize_matrix',
    'resize_spatial',
    'runs_eagerly',
    'sliding_attention',
    'subsample',
]
