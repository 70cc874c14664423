"""Importing this package registers new names, and changes nothing else."""

import subprocess
import sys
from textwrap import dedent

SCRIPT = """
    import os, pkgutil, random, warnings
    from importlib import import_module

    import numpy, torch
    import mmengine.fileio.backends.registry_utils as backends
    import mmengine.hooks, mmengine.registry, mmengine.runner
    import mmdet.registry, mmpretrain.registry, mmseg.registry
    import mmdet.utils, mmpretrain.utils, mmseg.utils  # as far as they register by themselves
    import mmengine.optim, mmengine.evaluator, mmengine.visualization
    from mmengine.registry import DefaultScope, Registry

    def members(*objects):
        return {f'{o.__name__}.{k}': v for o in objects for k, v in list(vars(o).items())}

    def registries(registry, found):
        found |= {(registry.scope, registry.name, k): v for k, v in registry.module_dict.items()}
        for child in registry.children.values():
            registries(child, found)
        return found

    def state():
        found = {}
        for value in vars(mmengine.registry).values():
            if isinstance(value, Registry):
                registries(value, found)
        found |= {('backend', k): v for k, v in backends.backends.items()}
        found |= {('prefix', k): v for k, v in backends.prefix_to_backends.items()}
        found |= {('scheme', k): v for k, v in mmengine.runner.CheckpointLoader._schemes.items()}
        found |= members(mmengine.hooks, mmengine.runner, mmengine.runner.checkpoint,
                         mmengine.hooks.CheckpointHook, mmengine.fileio,
                         mmengine.fileio.LocalBackend,
                         mmengine.runner.Runner, torch.utils.data.DataLoader, torch.serialization)
        return found

    def whole():
        scope = DefaultScope.get_current_instance()
        return (dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist(),
                torch.get_rng_state().tolist(), torch.serialization.get_safe_globals(),
                torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
                scope and scope.scope_name, list(warnings.filters))

    before, also_before = state(), whole()
    names = ['mmcontnet']
    for name in names:
        module = import_module(name)
        names += [m.name for m in pkgutil.iter_modules(getattr(module, '__path__', []), name + '.')]
    assert len(names) > 40, names
    after = state()
    changed = [key for key, value in before.items() if after.get(key) is not value]
    assert not changed, changed
    assert whole() == also_before, [(a, b) for a, b in zip(also_before, whole()) if a != b]
    print('unchanged')
"""


def test_no_module_changes_what_it_did_not_define() -> None:
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', dedent(SCRIPT)], capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1:] == ['unchanged'], result.stderr
