"""Functions without parameters."""

from .attention import attention, low_rank_biased_attention
from .conv_gelu import conv_gelu, linear_gelu
from .local_aggregation import local_aggregation
from .norm_conv import norm_conv
from .position_bias import resize_matrix, resize_spatial
from .reference import force_reference, reference_forced, runs_eagerly
from .reflect_pad import reflect_pad
from .sliding_attention import sliding_attention
from .subsample import subsample
from .windows import pad_to_multiple, window_partition, window_reverse

__all__ = [
    'attention',
    'conv_gelu',
    'force_reference',
    'linear_gelu',
    'local_aggregation',
    'low_rank_biased_attention',
    'norm_conv',
    'pad_to_multiple',
    'reference_forced',
    'reflect_pad',
    'resize_matrix',
    'resize_spatial',
    'runs_eagerly',
    'sliding_attention',
    'subsample',
    'window_partition',
    'window_reverse',
]
