"""The authors' checkpoints, converted to ours."""

from .convert import Converted, convert_checkpoint, convert_state_dict

__all__ = ['Converted', 'convert_checkpoint', 'convert_state_dict']
