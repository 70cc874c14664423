"""The papers' building blocks: modules with parameters, one concept a file."""

from .patch_encoder import AxialPositionEncoding, PatchEncoder

__all__ = ['AxialPositionEncoding', 'PatchEncoder']
