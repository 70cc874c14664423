"""Around mmengine's runner: configs, checks before work, and a run whose rules end with it."""

from .checks import check_data, check_load_from, check_model, odd_settings
from .compilation import CompileHook
from .components import build_optimization, check_components
from .config import ConfigOptions, import_datasets, load_config
from .datasets import check_problem, validate_datasets
from .distributed import is_first_process, number_of_processes, process_group
from .issues import report_issues
from .resume import ResumePoint, find_resume_point
from .run import parse_run_args, runner_of
from .writing import owner_of

__all__ = [
    'CompileHook',
    'ConfigOptions',
    'ResumePoint',
    'build_optimization',
    'check_components',
    'check_data',
    'check_load_from',
    'check_model',
    'check_problem',
    'find_resume_point',
    'import_datasets',
    'is_first_process',
    'load_config',
    'number_of_processes',
    'odd_settings',
    'owner_of',
    'parse_run_args',
    'process_group',
    'report_issues',
    'runner_of',
    'validate_datasets',
]
