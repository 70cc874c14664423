"""What the training and testing command lines share: configs, checks before work, processes."""

from .checkpoints import read_checkpoint
from .checks import check_data, check_model
from .config import load_config
from .datasets import report_issues, validate_datasets
from .distributed import is_first_process, process_group
from .loading import BACKBONE, load_checkpoint, load_weights, read_weights
from .resume import prepare_resume
from .run import build_runner, errors_in_a_line, parse_run_args

__all__ = [
    'BACKBONE',
    'build_runner',
    'check_data',
    'check_model',
    'errors_in_a_line',
    'validate_datasets',
    'is_first_process',
    'load_checkpoint',
    'load_config',
    'load_weights',
    'parse_run_args',
    'prepare_resume',
    'process_group',
    'read_checkpoint',
    'read_weights',
    'report_issues',
]
