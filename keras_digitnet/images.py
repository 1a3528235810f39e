"""Pictures of every kind to grey pixels."""

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

    # A file's path, content, data URL, or an open file of it; an opened picture, or its pixels.
    Picture: TypeAlias = (
        str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
    )

T = TypeVar("T")

logger = logging.getLogger(__name__)

SIDE = 28

# What decodes in about half a gigabyte.
_MOST_PIXELS = 64_000_000
# So often the largest picture's JPEG may go over its pixels, a smaller one's more often: some
# seconds. Ten is usual for one that appears bit by bit.
_MOST_SCANS = 20
_MOST_BYTES = 1 << 30  # of an open file, and of standard input

# Pillow goes by the content; it would start other programs for some of its further formats.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
# What is fainter is left of ink that was wiped off.
_FAINTEST_ALPHA = 8
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_LONGEST_NAME = 400


class NamedBytes(bytes):
    """The content of a picture, and what messages call it."""

    def __new__(cls, content: bytes, name: str) -> "NamedBytes":
        named = super().__new__(cls, content)
        named._name = name
        return named

    def __str__(self) -> str:
        return self._name

    _name: str


def read_standard_input() -> NamedBytes:
    """All of standard input; nothing where it is closed.

    Raises:
        DigitNetError: There is too much of it.
    """
    content = sys.stdin.buffer.read(_MOST_BYTES + 1) if sys.stdin else b""
    if len(content) > _MOST_BYTES:
        raise DigitNetError(
            f"-: expected an image; received: more than {_MOST_BYTES >> 20} MiB of standard input."
        )
    return NamedBytes(content, "-")


def is_there(picture: str | NamedBytes) -> bool:
    """Whether there is something to be opened; that it can be read is another question."""
    if isinstance(picture, NamedBytes) or _DATA_URL.match(picture):
        return True
    return os.path.isfile(page_of(picture)[0])  # noqa: PTH113


def read_image(path: "Picture") -> tuple[np.ndarray, bool]:
    """A picture in MNIST's form already, grey and at MNIST's size.

    Args:
        path: A file as for `read_grey`, light on dark.

    Returns:
        `(28, 28)` uint8, and whether the picture had that size.

    Raises:
        DigitNetError: It is no picture, is damaged, or is too large to open.
    """
    grey = read_grey(path)
    return resized(grey), grey.shape == (SIDE, SIDE)


def resized(grey: np.ndarray) -> np.ndarray:
    """Grey values `(H, W)` uint8 at MNIST's size, whatever they show."""
    from PIL import Image

    if grey.shape == (SIDE, SIDE):
        return grey
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def read_grey(picture: "Picture") -> np.ndarray:
    """The grey values of a picture, upright; of an animation, its first frame.

    Colours are weighted as the eye does (ITU-R 601); what is transparent shows
    paper that the ink stands out from. Of a TIFF of several pages the first is
    read, and a warning names the others, unless the path ends in `#page=N`.

    Args:
        picture: A path to a PNG, JPEG, BMP, GIF, TIFF, WebP, AVIF, PBM, PGM or
            PPM, the content of one (bytes, or a `data:` URL), or a file of one
            opened for reading bytes; a Pillow image; or an array, `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA: bool, uint8,
            uint16, whole numbers from 0 to 255, or floats from 0 to 1. Values
            of a mask, 0 and 1, are black and white; what has more than eight
            bits is as bright as its largest value needs.

    Returns:
        `(H, W)` uint8.

    Raises:
        DigitNetError: It is no picture, is damaged, or is too large to open.
    """
    return _opened(picture, _grey, warn=True)


def open_upright(picture: "Picture") -> "Image.Image":
    """The same picture in colour, as an RGB image, for drawing on it.

    Raises:
        DigitNetError: As for `read_grey`.
    """
    return _opened(picture, _colour)


def described(grey: np.ndarray) -> str:
    """Size and values of a picture, for a message that says why nothing was found in it."""
    height, width = grey.shape
    return f"{width}x{height} pixels of values from {grey.min()} to {grey.max()}"


def name_of(picture: "Picture") -> str:
    """What messages call a picture."""
    if not isinstance(picture, str | os.PathLike | NamedBytes):
        return "picture"
    name = str(picture)
    if _DATA_URL.match(name):
        return "data URL"
    short = len(name) <= _LONGEST_NAME and "\n" not in name
    return name if short else f"{name[:40]!r}..."


def _opened(picture: "Picture", convert: "Callable[[Image.Image], T]", warn: bool = False) -> T:
    """What `convert` makes of the picture; whatever it cannot is one message."""
    from PIL import Image

    file: Any = None
    try:
        with without_warnings():  # of odd metadata; the pixels decide
            if isinstance(picture, Image.Image):
                return convert(_within_limits(picture))
            if hasattr(picture, "__array__") and not isinstance(picture, str | bytes):
                return convert(_from_array(np.asarray(picture)))
            file, page = _file_of(picture)
            with Image.open(file, formats=_FORMATS) as opened:
                if page:
                    _turn_to(opened, page)
                elif warn and opened.format == "TIFF":
                    _warn_of_pages(picture, file)
                return convert(_within_limits(opened))
    except DigitNetError:
        raise
    except Exception as error:  # Pillow lets through whatever its decoders raise
        raise DigitNetError(
            f"{name_of(picture)}: expected an image; received: {_said(picture, file, error)}"
        ) from None


# What a picture comes as


def _file_of(picture: Any) -> tuple[Any, int | None]:
    """A path or an open file, and the page that is meant, if one is named."""
    if isinstance(picture, str | os.PathLike):
        if _DATA_URL.match(path := os.fspath(picture)):
            return io.BytesIO(_from_data_url(path)), None
        path, page = page_of(path)
        if not os.path.isfile(path):  # noqa: PTH113  (a pipe would be waited for)
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
    """What stands behind `data:image/png;base64,`, as web pages send it (RFC 2397)."""
    import base64
    import urllib.parse

    header, content = url.split(",", 1)
    raw = urllib.parse.unquote_to_bytes(content)
    if not header.lower().endswith(";base64"):
        return raw
    raw = b"".join(raw.split())
    return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)


def _content(file: Any) -> bytes:
    """All of an open file, from its beginning where it has one to go back to."""
    if inspect.iscoroutinefunction(file.read):
        raise TypeError(
            f"an object of type {type(file).__name__} that has to be waited for; give what "
            "`await file.read()` returns."
        )
    with contextlib.suppress(AttributeError, OSError):  # of a stream
        file.seek(0)
    content = file.read(_MOST_BYTES + 1)
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"a file that gives {type(content).__name__} where bytes are expected; "
            "open it with mode 'rb'."
        )
    if len(content) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES >> 20} MiB.")
    return bytes(content)


def _turn_to(opened: "Image.Image", page: int) -> None:
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
        picture.draft("L", picture.size)  # of a JPEG, the colours are not even decoded
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        return _eight_bits(np.asarray(upright))
    if upright.mode == "F":
        low, high = upright.getextrema()
        raise ValueError(f"numbers that are not of 8 or 16 bits a pixel, from {low} to {high}.")
    if upright.has_transparency_data:
        return _eight_bits(_on_paper(upright.convert("RGBA")))  # a palette may be transparent too
    return _eight_bits(np.asarray(upright.convert("L")))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Whole numbers as uint8: those of a mask from 0 to 255, those of more bits cut to eight.

    Cameras and scanners put 10 and 12 bits into 16, so the largest value tells
    how many there are.
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
    """An RGBA picture laid on what its ink stands out from, which may be faint all over.

    A page with transparent corners is laid on paper like its own instead.
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
        if high - low > 64:  # else it is all ink
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


def _said(picture: "Picture", file: Any, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(picture, bytes) and not picture:
        return "nothing."
    if isinstance(error, UnidentifiedImageError):
        start = file.getvalue()[:512] if isinstance(file, io.BytesIO) else first_bytes(file)
        if not start:
            return "nothing: an empty file, or one that was read to its end."
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
        return "a folder without pictures." if readable else "a folder that cannot be looked into."
    if isinstance(error, FileNotFoundError):
        if re.match(r"https?://", str(picture)):
            return "an address; fetch it first, since nothing is fetched here."
        there = os.path.exists(picture)  # noqa: PTH110
        return "something that is no file." if there else "no such file."
    return first_line(error)
