"""Pictures of every kind to grey pixels."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    # A file's path, its content, an opened picture, or its pixels.
    Picture: TypeAlias = str | Path | bytes | Image.Image | np.ndarray

T = TypeVar("T")

SIDE = 28

# What decodes in about half a gigabyte.
_MOST_PIXELS = 64_000_000
# So often the largest picture's JPEG may go over its pixels, a smaller one's more often: some
# seconds. Ten is usual for one that appears bit by bit.
_MOST_SCANS = 20

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

    grey = Image.fromarray(read_grey(path))
    as_it_is = grey.size == (SIDE, SIDE)
    if not as_it_is:
        grey = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey), as_it_is


def read_grey(picture: "Picture") -> np.ndarray:
    """The grey values of a picture, upright; of an animation, its first frame.

    Colours are weighted as the eye does (ITU-R 601); what is transparent shows
    paper that the ink stands out from.

    Args:
        picture: A path to a PNG, JPEG, BMP, GIF, TIFF, WebP or PGM, or the
            content of one; a Pillow image; or an array, `(H, W)`, `(H, W, 1)`,
            `(H, W, 3)` RGB or `(H, W, 4)` RGBA: bool, uint8, uint16, whole
            numbers from 0 to 255, or floats from 0 to 1.

    Returns:
        `(H, W)` uint8.

    Raises:
        DigitNetError: It is no picture, is damaged, or is too large to open.
    """
    return _opened(picture, _grey)


def open_upright(picture: "Picture") -> "Image.Image":
    """The same picture in colour, as an RGB image, for drawing on it.

    Raises:
        DigitNetError: As for `read_grey`.
    """
    return _opened(picture, _colour)


def _opened(picture: "Picture", convert: "Callable[[Image.Image], T]") -> T:
    """What `convert` makes of the picture; whatever it cannot is one message."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels decide
            if isinstance(picture, Image.Image):
                return convert(_bearable(picture))
            if isinstance(picture, bytes):
                file: Any = io.BytesIO(picture)
            elif os.path.isfile(picture):  # noqa: PTH113  (a pipe would be waited for)
                file = picture
            else:
                raise FileNotFoundError
            with Image.open(file, formats=_FORMATS) as opened:
                return convert(_bearable(opened))
    except Exception as error:  # Pillow lets through whatever its decoders raise
        received = _said(picture, error)
        raise DigitNetError(
            f"{name_of(picture)}: expected an image; received: {received}"
        ) from None


def name_of(picture: "Picture") -> str:
    """What messages call a picture."""
    return str(picture) if isinstance(picture, str | os.PathLike) else "picture"


def _bearable(picture: "Image.Image") -> "Image.Image":
    width, height = picture.size
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels; make it smaller, at most {_MOST_PIXELS // 10**6} million"
        )
    scans = _scans(picture)
    if width * height * scans > _MOST_PIXELS * _MOST_SCANS:
        raise ValueError(f"a JPEG that goes over its pixels {scans:,} times; save it anew")
    return picture


def _scans(picture: "Image.Image") -> int:
    """How often a JPEG that was not read yet goes over its pixels, by its start-of-scan markers."""
    file = getattr(picture, "fp", None)
    if file is None or picture.format not in ("JPEG", "MPO"):
        return 1
    place = file.tell()
    file.seek(0)
    scans = sum(chunk.count(b"\xff\xda") for chunk in iter(lambda: file.read(1 << 20), b""))
    file.seek(place)
    return scans


def _colour(picture: "Image.Image") -> "Image.Image":
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.has_transparency_data:
        upright = Image.fromarray(_grey(picture))
    return upright.convert("RGB")


def _grey(picture: "Image.Image") -> np.ndarray:
    from PIL import Image, ImageOps

    if hasattr(picture, "draft"):
        picture.draft("L", picture.size)  # of a JPEG, the colours are not even decoded
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PPM"):
        return (np.asarray(upright) >> 8).astype(np.uint8)
    if upright.mode in ("I", "F"):
        raise ValueError("numbers that are not of 8 or 16 bits a pixel")
    if not upright.has_transparency_data:
        return np.asarray(upright.convert("L"))
    # Through RGBA: a palette may have transparent colours.
    grey, alpha = upright.convert("RGBA").convert("LA").split()
    seen = np.asarray(grey)[np.asarray(alpha) > 127]
    paper = 255 if seen.size and seen.mean() < 128 else 0
    return np.asarray(Image.composite(grey, Image.new("L", grey.size, paper), alpha))


def _from_array(pixels: np.ndarray) -> "Image.Image":
    from PIL import Image

    plain = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    shaped = plain.ndim == 2 or (plain.ndim == 3 and plain.shape[-1] in (3, 4))
    if not shaped or plain.size == 0:
        raise DigitNetError(
            "picture: expected an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); "
            f"received: {pixels.shape}."
        )
    if plain.dtype == np.uint16:
        return Image.fromarray((plain >> 8).astype(np.uint8))
    highest = 1 if plain.dtype.kind in "bf" else 255
    if plain.dtype.kind not in "biuf":
        raise DigitNetError(f"picture: expected an array of numbers; received: {plain.dtype}.")
    if not (plain.min() >= 0 and plain.max() <= highest):
        raise DigitNetError(
            "picture: expected whole numbers from 0 to 255 or floats from 0 to 1; "
            f"received: {plain.dtype} from {plain.min()} to {plain.max()}."
        )
    return Image.fromarray(np.round(plain * (255 / highest)).astype(np.uint8))


def _said(picture: "Picture", error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"a file that is none of {', '.join(_FORMATS)}."
    if not isinstance(picture, str | os.PathLike):
        return first_line(error)
    if os.path.isdir(picture):  # noqa: PTH112
        readable = os.access(picture, os.R_OK | os.X_OK)
        return "a folder without pictures." if readable else "a folder that cannot be looked into."
    if isinstance(error, FileNotFoundError):
        there = os.path.exists(picture)  # noqa: PTH110
        return "something that is no file." if there else "no such file."
    return first_line(error)
