"""Decodes pictures of any kind to grey pixels."""

import contextlib
import inspect
import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.picture_files import (
    MOST_PAGES,
    count_pages,
    first_bytes,
    kind_of,
    page_of,
    without_warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from PIL import Image

    # A path, a file's content, a data URL, an open file, a Pillow image or an array of pixels.
    Picture: TypeAlias = (
        str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
    )

T = TypeVar("T")

logger = logging.getLogger(__name__)

SIDE = 28

# Takes about half a gigabyte to decode.
_MOST_PIXELS = 64_000_000
# Scans of a progressive JPEG of the largest size, smaller ones may have more: a few seconds of
# decoding. Ten are usual.
_MOST_SCANS = 20
_MOST_BYTES = 1 << 30  # of an open file, and of standard input

# Pillow detects the format from the content. Some formats that are left out start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
# Fainter pixels are remains of erased ink.
_FAINTEST_ALPHA = 8
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_LONGEST_NAME = 400


class NamedBytes(bytes):
    """The content of a picture file, with the name to use in messages.

    Args:
        content: The file's bytes.
        name: The name, which `str` returns.
    """

    def __new__(cls, content: bytes, name: str) -> "NamedBytes":
        named = super().__new__(cls, content)
        named._name = name
        return named

    def __str__(self) -> str:
        return self._name

    _name: str


def read_standard_input() -> NamedBytes:
    """Reads all of standard input; it counts as empty if it is closed.

    Raises:
        DigitNetError: It is longer than 1 GiB.
    """
    content = sys.stdin.buffer.read(_MOST_BYTES + 1) if sys.stdin else b""
    if len(content) > _MOST_BYTES:
        raise DigitNetError(
            f"-: expected an image; received: more than {_MOST_BYTES >> 20} MiB of standard input."
        )
    return NamedBytes(content, "-")


def is_there(picture: str | NamedBytes) -> bool:
    """Whether the picture exists, whether or not it can be decoded."""
    if isinstance(picture, NamedBytes) or _DATA_URL.match(picture):
        return True
    return os.path.isfile(page_of(picture)[0])  # noqa: PTH113


def read_image(path: "Picture") -> tuple[np.ndarray, bool]:
    """Reads a picture that has MNIST's form already, and resizes it to 28x28 if needed.

    Args:
        path: A picture as for `read_grey`, light on dark.

    Returns:
        `(28, 28)` uint8, and whether the picture had that size.

    Raises:
        DigitNetError: It is not a picture, is damaged, or is too large to open.
    """
    grey = read_grey(path)
    return resized(grey), grey.shape == (SIDE, SIDE)


def resized(grey: np.ndarray) -> np.ndarray:
    """Resizes grey values `(H, W)` uint8 to `(28, 28)` uint8, ignoring the aspect ratio."""
    from PIL import Image

    if grey.shape == (SIDE, SIDE):
        return grey
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def read_grey(picture: "Picture") -> np.ndarray:
    """Reads the grey values of a picture, upright; of an animation, the first frame.

    Colours are weighted by luma (ITU-R 601). Transparent pixels become paper
    that contrasts with the ink. Of a multi-page TIFF the first page is read,
    with a warning, unless the path ends in `#page=N`.

    Args:
        picture: A path to a PNG, JPEG, BMP, GIF, TIFF, WebP, AVIF, PBM, PGM or
            PPM, the content of one (bytes, or a `data:` URL), or a file of one
            opened for reading bytes; a Pillow image; or an array, `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA: bool, uint8,
            uint16, whole numbers from 0 to 255, or floats from 0 to 1. The
            values 0 and 1 of a mask become black and white. Values of more
            than eight bits are scaled by the bit depth of their maximum.

    Returns:
        `(H, W)` uint8.

    Raises:
        DigitNetError: It is not a picture, is damaged, or is too large to open.
    """
    return _opened(picture, _grey, warn=True)


def open_upright(picture: "Picture") -> "Image.Image":
    """Opens the same picture in colour, upright, as an RGB image to draw on.

    Raises:
        DigitNetError: As for `read_grey`.
    """
    return _opened(picture, _colour)


def described(grey: np.ndarray) -> str:
    """Size and range of values of a picture, for messages."""
    height, width = grey.shape
    return f"{width}x{height} pixels of values from {grey.min()} to {grey.max()}"


def name_of(picture: "Picture") -> str:
    """The name of a picture for messages."""
    if not isinstance(picture, str | os.PathLike | NamedBytes):
        return "picture"
    name = str(picture)
    if _DATA_URL.match(name):
        return "data URL"
    short = len(name) <= _LONGEST_NAME and "\n" not in name
    return name if short else f"{name[:40]!r}..."


def _opened(picture: "Picture", convert: "Callable[[Image.Image], T]", warn: bool = False) -> T:
    """Applies `convert` to the opened picture; turns any failure into a DigitNetError."""
    from PIL import Image

    file: Any = None
    try:
        with without_warnings():  # about odd metadata; only the pixels matter
            if isinstance(picture, Image.Image):
                return convert(_within_limits(picture))
            if hasattr(picture, "__array__") and not isinstance(picture, str | bytes):
                return convert(_from_array(np.asarray(picture)))
            file, page = _file_of(picture)
            with Image.open(file, formats=_FORMATS) as opened:
                if page:
                    _seek_page(opened, page)
                elif warn and opened.format == "TIFF":
                    _warn_of_pages(picture, file)
                return convert(_within_limits(opened))
    except DigitNetError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        raise DigitNetError(
            f"{name_of(picture)}: expected an image; received: {_received(picture, file, error)}"
        ) from None


# Sources of pictures


def _file_of(picture: Any) -> tuple[Any, int | None]:
    """A path or an open file, and the number of the page if one is named."""
    if isinstance(picture, str | os.PathLike):
        if _DATA_URL.match(path := os.fspath(picture)):
            return io.BytesIO(_from_data_url(path)), None
        path, page = page_of(path)
        if not os.path.isfile(path):  # noqa: PTH113  (opening a pipe would block)
            raise FileNotFoundError
        return path, page
    if isinstance(picture, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(picture)), None
    if callable(getattr(picture, "read", None)):
        return io.BytesIO(_content(picture)), None
    given = "None" if picture is None else f"an object of type {type(picture).__name__}"
    raise TypeError(
        f"{given}; give a path, the bytes of a file, an open file, a Pillow image or an array."
    )


def _from_data_url(url: str) -> bytes:
    """The content of a data URL such as `data:image/png;base64,...` (RFC 2397)."""
    import base64
    import urllib.parse

    header, content = url.split(",", 1)
    raw = urllib.parse.unquote_to_bytes(content)
    if not header.lower().endswith(";base64"):
        return raw
    raw = b"".join(raw.split())
    return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)


def _content(file: Any) -> bytes:
    """All of an open file, from its start if it is seekable."""
    if inspect.iscoroutinefunction(file.read):
        raise TypeError(
            f"an object of type {type(file).__name__}, which is asynchronous; give the result of "
            "`await file.read()`."
        )
    with contextlib.suppress(AttributeError, OSError):  # a stream is not seekable
        file.seek(0)
    content = file.read(_MOST_BYTES + 1)
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"a file that returns {type(content).__name__}, not bytes; open it with mode 'rb'."
        )
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES >> 20} MiB.")
    return bytes(content)


def _seek_page(opened: "Image.Image", page: int) -> None:
    try:
        if page > MOST_PAGES:
            raise ValueError(f"page {page}; at most {MOST_PAGES} of a file are read, so split it.")
        opened.seek(page - 1)
    except EOFError:
        raise ValueError(f"page {page} of a file that has fewer.") from None


def _warn_of_pages(picture: "Picture", file: Any) -> None:
    pages = count_pages(io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file)
    if len(pages) > 1:
        name = name_of(picture)
        logger.warning(
            "%s: %d pages, of which the first is read. %s",
            name,
            len(pages),
            "Give each as a picture of its own."
            if name in ("picture", "data URL")
            else f"{name}#page={pages[1]} names the next.",
        )


def _within_limits(picture: "Image.Image") -> "Image.Image":
    width, height = picture.size
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels; make it smaller, at most {_MOST_PIXELS // 10**6} million"
        )
    scans = _scans(picture)
    if width * height * scans > _MOST_PIXELS * _MOST_SCANS:
        raise ValueError(f"a JPEG of {scans:,} scans, too many to decode; save it again")
    return picture


def _scans(picture: "Image.Image") -> int:
    """The number of scans of a JPEG that is not decoded yet, by its start-of-scan markers."""
    file = getattr(picture, "fp", None)
    if file is None or picture.format not in ("JPEG", "MPO"):
        return 1
    place = file.tell()
    file.seek(0)
    scans = sum(chunk.count(b"\xff\xda") for chunk in iter(lambda: file.read(1 << 20), b""))
    file.seek(place)
    return scans


# Pixels


def _colour(picture: "Image.Image") -> "Image.Image":
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.has_transparency_data:
        upright = Image.fromarray(_grey(picture))
    return upright.convert("RGB")


def _grey(picture: "Image.Image") -> np.ndarray:
    from PIL import ImageOps

    if hasattr(picture, "draft"):
        picture.draft("L", picture.size)  # a JPEG decoder then skips the colours
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        return _eight_bits(np.asarray(upright))
    if upright.mode == "F":
        low, high = upright.getextrema()
        raise ValueError(f"numbers that are not of 8 or 16 bits a pixel, from {low} to {high}.")
    if upright.has_transparency_data:
        return _eight_bits(_on_paper(upright.convert("RGBA")))  # palettes can be transparent too
    return _eight_bits(np.asarray(upright.convert("L")))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers as uint8: masks scaled from 0 and 1 to 0 and 255, deeper values cut to eight bits.

    Cameras and scanners store 10 and 12 bits in 16, so the bit depth is taken
    from the largest value.
    """
    highest = int(values.max())
    if highest == 1:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return values
    if highest > 0xFFFF or int(values.min()) < 0:
        raise ValueError(
            f"numbers that are not of 8 or 16 bits a pixel, from {values.min()} to {highest}."
        )
    return (values >> max(highest.bit_length() - 8, 0)).astype(np.uint8)


def _on_paper(picture: "Image.Image") -> np.ndarray:
    """Composites an RGBA picture, whose ink may be faint, onto paper that contrasts with the ink.

    An opaque page with transparent corners is composited onto its own paper's grey.
    """
    from PIL import Image, ImageChops, ImageStat

    grey, alpha = picture.convert("LA").split()
    strongest = int(np.asarray(alpha).max())
    if strongest >= _FAINTEST_ALPHA:
        alpha = alpha.point(lambda value: round(value * 255 / strongest))
    (opacity,) = ImageStat.Stat(alpha).sum
    (light,) = ImageStat.Stat(ImageChops.multiply(grey, alpha)).sum  # a pixel: grey * alpha / 255
    paper = 255 if opacity and light * 255 / opacity < 128 else 0
    if opacity > 0.5 * 255 * grey.width * grey.height:
        counts = np.cumsum(grey.histogram(alpha.point(lambda value: 255 * (value > 127))))
        low, median, high = np.searchsorted(counts, counts[-1] * np.array((0.02, 0.5, 0.98)))
        if high - low > 64:  # otherwise all of it is ink
            paper = int(median)
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
    if plain.dtype.kind not in "biuf":
        raise DigitNetError(f"picture: expected an array of numbers; received: {plain.dtype}.")
    if plain.dtype == np.uint16:
        return Image.fromarray(_eight_bits(plain))
    highest = 1 if plain.dtype.kind in "bf" else 255
    if not (plain.min() >= 0 and plain.max() <= highest):
        raise DigitNetError(
            "picture: expected whole numbers from 0 to 255 or floats from 0 to 1; "
            f"received: {plain.dtype} from {plain.min()} to {plain.max()}."
        )
    return Image.fromarray(np.round(plain * (255 / highest)).astype(np.uint8))


def _received(picture: "Picture", file: Any, error: Exception) -> str:
    """What a message says was received where a picture cannot be opened."""
    from PIL import UnidentifiedImageError

    if isinstance(picture, bytes) and not picture:
        return "no data."
    if isinstance(error, UnidentifiedImageError):
        start = file.getvalue()[:512] if isinstance(file, io.BytesIO) else first_bytes(file)
        if not start:
            return "an empty file, or one already read to its end."
        kind = kind_of(start)
        known = kind and kind.upper() not in _FORMATS
        return (
            f"a file that is none of {', '.join(_FORMATS)}"
            f"{f', but {kind}; save it as PNG or JPEG' if known else ''}."
        )
    if not isinstance(picture, str | os.PathLike):
        return first_line(error)
    if os.path.isdir(picture):  # noqa: PTH112
        readable = os.access(picture, os.R_OK | os.X_OK)
        return "a folder without pictures." if readable else "a folder that cannot be read."
    if isinstance(error, FileNotFoundError):
        if re.match(r"https?://", str(picture)):
            return "a URL; download it first."
        there = os.path.exists(picture)  # noqa: PTH110
        return "not a regular file." if there else "no such file."
    return first_line(error)
