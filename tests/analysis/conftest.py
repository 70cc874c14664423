"""What several tests of the tools look at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image file of 120 x 90 pixels."""
    pixels = np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    return tmp_path / 'image.png'


@pytest.fixture
def write_backbone(tmp_path: Path) -> Callable[..., Path]:
    """Write a config of a backbone alone, by the name of the file and the backbone's arguments."""

    def write(name: str, **backbone: object) -> Path:
        path = tmp_path / name
        path.write_text(
            "custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)\n"
            f"default_scope = 'mmdet'\nmodel = dict(backbone={backbone!r})\n"
        )
        return path

    return write
