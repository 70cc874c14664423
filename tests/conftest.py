"""Settings of all tests."""

import os
from pathlib import Path

# Command lines that tests start in other directories find the package as the tests do.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH')])
)
