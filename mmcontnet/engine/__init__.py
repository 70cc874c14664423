"""What the training and testing command lines share: configs, checks before work, processes."""

from ..checkpoint import load_checkpoint, load_weights, read_checkpoint, read_weights, safe_loading
from .checks import check_data, check_model
from .config import load_config
from .datasets import find_faults, report_faults
from .distributed import is_first_process, process_group
from .resume import prepare_resume
from .run import build_runner, errors_in_a_line, parse_run_args

__all__ = [
    'build_runner',
    'check_data',
    'check_model',
    'errors_in_a_line',
    'find_faults',
    'is_first_process',
    'load_checkpoint',
    'load_config',
    'load_weights',
    'parse_run_args',
    'prepare_resume',
    'process_group',
    'read_checkpoint',
    'read_weights',
    'report_faults',
    'safe_loading',
]
