"""Open image files from any source; all tools use this."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import UserError


def check_image(path: str | Path) -> None:
    """Look at what a file is before it is decoded; what is not there is for the reader to say.

    Raises:
        UserError: If reading it would never end, or take gigabytes: for a pipe, and for more pixels
            than twice ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f'cannot read image {str(path)!r}: it is no regular file')
    # What Pillow does not know others may.
    with warnings.catch_warnings(), suppress(UnidentifiedImageError, OSError, ValueError):
        warnings.simplefilter('ignore')  # of EXIF data, too
        try:
            Image.open(path).close()
        except Image.DecompressionBombError as error:
            raise UserError(f'cannot read image {str(path)!r}: {error}') from error


def read_image(path: str | Path, read: Callable[[str], np.ndarray] = mmcv.imread) -> np.ndarray:
    """Read an image file.

    Args:
        path: The file.
        read: By default OpenMMLab's: in BGR, 8 bits each, upright by the EXIF data.

    Returns:
        What ``read`` makes of it, (H, W) or (H, W, C).

    Raises:
        UserError: If it cannot be read.
    """
    check_image(path)
    try:
        pixels = read(str(path))
        assert pixels is not None  # as OpenCV returns it
        return pixels
    except OSError as error:
        raise UserError(f'cannot read image {str(path)!r}: {error.strerror}') from error
    except Exception as error:  # whatever the decoders raise
        reason = 'it is no whole image that its loader knows (OpenCV: 8 or 16 bits a channel)'
        raise UserError(f'cannot read image {str(path)!r}: {reason}') from error
