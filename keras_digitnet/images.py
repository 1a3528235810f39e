"""Pictures from files to 28x28 digits."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line

if TYPE_CHECKING:
    from PIL import Image

SIDE = 28

# What counts as a picture in a folder; a file that is named itself may be called anything.
_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".pgm",
    ".ppm",
)
# Pillow goes by the content; it would start other programs for some of its further formats.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def find_pictures(paths: Iterable[str | Path]) -> Iterator[str]:
    """Files as they are named, and the pictures in folders, in folders of theirs too, by name.

    A folder that holds no picture, or cannot be looked into, stands for itself,
    for `read_image` to say so.
    """
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  (pathlib's raises for some names)
            yield str(path)
            continue
        unreadable: list[OSError] = []
        empty = True
        for folder, subfolders, names in os.walk(path, onerror=unreadable.append):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                    empty = False
                    yield str(Path(folder, name))
        yield from (error.filename for error in unreadable)
        if empty and not unreadable:
            yield str(path)


def read_image(path: str | Path) -> tuple[np.ndarray, bool]:
    """A picture in MNIST's form already, grey and at MNIST's size.

    Args:
        path: A PNG, JPEG, BMP, GIF, TIFF, WebP or PGM, light on dark.

    Returns:
        `(28, 28)` uint8, and whether the picture had that size.

    Raises:
        DigitNetError: It is no picture, is damaged, or is too large to open.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels decide
            grey = _grey(path)
    except Exception as error:  # Pillow lets through whatever its decoders raise
        raise DigitNetError(f"{path}: expected an image; received: {_said(path, error)}") from None
    as_it_is = grey.size == (SIDE, SIDE)
    if not as_it_is:
        grey = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey), as_it_is


def _grey(path: str | Path) -> "Image.Image":
    from PIL import Image, ImageOps

    if not os.path.isfile(path):  # noqa: PTH113  (a pipe would be waited for)
        raise FileNotFoundError
    with Image.open(path, formats=_FORMATS) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PPM"):
            return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise ValueError("numbers that are not of 8 or 16 bits a pixel")
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            paper = Image.new("RGBA", upright.size, "black")  # what MNIST's digits stand on
            upright = Image.alpha_composite(paper, upright)
        return upright.convert("L")


def _said(path: str | Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if os.path.isdir(path):  # noqa: PTH112
        readable = os.access(path, os.R_OK | os.X_OK)
        return "a folder without pictures." if readable else "a folder that cannot be looked into."
    if isinstance(error, FileNotFoundError):
        there = os.path.exists(path)  # noqa: PTH110
        return "something that is no file." if there else "no such file."
    if isinstance(error, UnidentifiedImageError):
        return f"a file that is none of {', '.join(_FORMATS)}."
    return first_line(error)
