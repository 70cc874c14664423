"""Packaging of mmcontnet; `pip install .`, `pip install -e .` and wheels all go through here."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
(VERSION,) = re.findall(r"__version__ = '(.+)'", (ROOT / 'mmcontnet/version.py').read_text())
MIM = ('configs', 'model-index.yml', 'tools')
PAPERS = {
    'ConTNet (paper)': 'https://arxiv.org/abs/2104.13497',
    'CMT (paper)': 'https://arxiv.org/abs/2107.06263',
    'CoTNet (paper)': 'https://arxiv.org/abs/2107.12292',
    'ACmix (paper)': 'https://arxiv.org/abs/2111.14556',
}
EXPORT = ['onnx', 'onnxruntime', 'onnxscript']  # of tools/export_onnx.py


class BuildWithMim(build_py):
    """Put configs, metafiles and tools where OpenMMLab looks for them: in `mmcontnet/.mim`.

    A wheel gets copies, made in the build folder so that the checkout stays clean. An editable
    install gets links in the checkout, so that an edited config is the one that is used.
    """

    def run(self) -> None:
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        mim = package / 'mmcontnet' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)  # build folders outlive a build
        mim.mkdir(parents=True)
        for source in (ROOT / name for name in MIM):
            target = mim / source.name
            if self.editable_mode:
                target.symlink_to(Path('../..') / source.name)
            elif source.is_file():
                shutil.copy(source, target)
            else:
                # These write pages that are not in the package.
                pages = ('make_tables.py', 'plot_throughput.py')
                ignore = shutil.ignore_patterns('__pycache__', *pages)
                shutil.copytree(source, target, ignore=ignore)


setup(
    name='mmcontnet',
    version=VERSION,
    description='ConTNet, CMT, CoTNet and ACmix backbones for OpenMMLab 2.x',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    project_urls=PAPERS,
    keywords=[
        'ACmix',
        'CMT',
        'ConTNet',
        'CoTNet',
        'OpenMMLab',
        'PyTorch',
        'backbone',
        'image classification',
        'object detection',
        'semantic segmentation',
        'vision transformer',
    ],
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['mmcontnet', 'mmcontnet.*']),
    package_data={'mmcontnet': ['py.typed', '**/*.yml']},
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10',
    # No mmcv: it must be compiled against the torch that is installed (tools/setup_env.py does so).
    install_requires=['torch>=2.4', 'numpy', 'msgspec', 'onedl-mmengine>=0.10.12', 'safetensors'],
    extras_require={
        'det': ['onedl-mmdetection>=3.5.1'],
        'seg': ['onedl-mmsegmentation>=1.4.2'],
        'cls': ['onedl-mmpretrain>=1.3.6', 'torchvision'],
        'export': EXPORT,
        'dev': [
            *EXPORT,
            'hypothesis',
            'lightning',
            'mypy',
            'pytest',
            'pytest-xdist',
            'ruff',
            'setuptools>=80,<82',
            'wheel',
        ],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
)
