"""What the training and testing command lines share: configs, checks before work, processes."""

from .checkpoints import read_checkpoint
from .checks import check_checkpoint, check_data, check_depth, check_model, load_what_fits
from .config import UserError, load_config
from .datasets import find_faults, report_faults
from .distributed import is_first_process, process_group
from .run import build_runner, parse_run_args

__all__ = [
    'UserError',
    'build_runner',
    'check_checkpoint',
    'check_data',
    'check_depth',
    'check_model',
    'find_faults',
    'is_first_process',
    'load_config',
    'load_what_fits',
    'parse_run_args',
    'process_group',
    'read_checkpoint',
    'report_faults',
]
