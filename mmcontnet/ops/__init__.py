"""Functions without parameters."""

from .attention import attention
from .patches import merge_patches, pad_to_multiple, partition_patches

__all__ = ['attention', 'merge_patches', 'pad_to_multiple', 'partition_patches']
