"""What the training and testing command lines share: configs, checks before work, the runner."""

from ..checkpoint import load_checkpoint, load_weights, read_checkpoint, read_weights
from .checks import check_data, check_load_from, check_model
from .config import load_config
from .datasets import report_issues, validate_datasets
from .distributed import is_first_process, process_group
from .resume import ResumePoint, find_resume_point
from .run import parse_run_args, runner_of
from .writing import owner_of

__all__ = [
    'ResumePoint',
    'check_data',
    'check_load_from',
    'check_model',
    'validate_datasets',
    'find_resume_point',
    'is_first_process',
    'load_checkpoint',
    'load_config',
    'load_weights',
    'owner_of',
    'parse_run_args',
    'process_group',
    'read_checkpoint',
    'read_weights',
    'report_issues',
    'runner_of',
]
