"""The authors' checkpoints, converted to ours."""

from .convert import CheckpointError, Converted, convert_checkpoint, convert_state_dict

__all__ = ['CheckpointError', 'Converted', 'convert_checkpoint', 'convert_state_dict']
