"""Functions without parameters."""

from .attention import attention, low_rank_biased_attention
from .patches import merge_patches, pad_to_multiple, partition_patches
from .position_bias import resize_matrix, resize_spatial

__all__ = [
    'attention',
    'low_rank_biased_attention',
    'merge_patches',
    'pad_to_multiple',
    'partition_patches',
    'resize_matrix',
    'resize_spatial',
]
