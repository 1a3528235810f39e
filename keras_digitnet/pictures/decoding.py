"""Decodes pictures in any supported format to grey pixels."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keras_digitnet.config import SIDE
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.files import without_warnings
from keras_digitnet.pictures.sources import (
    FORMATS,
    file_of,
    name_of,
    received,
    seek_page,
    warn_of_others,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from keras_digitnet.pictures.sources import Picture

T = TypeVar("T")

# Takes about half a gigabyte to decode.
_MAX_PIXELS = 64_000_000
# Scans of a progressive JPEG of the largest size, a few seconds of decoding; smaller ones may have
# more. Ten are usual.
_MAX_SCANS = 20
# Fainter pixels are remains of erased ink.
_MIN_ALPHA = 8


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
    """Reads the grey values of a picture, upright.

    Colours are weighted by luma (ITU-R 601). Transparent pixels become paper
    that contrasts with the ink. Of an animation the first frame is read, and of
    a TIFF the first page unless the path ends in `#page=N`, with a warning.

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
    return f"{width}x{height} pixels with values from {grey.min()} to {grey.max()}"


def _opened(picture: "Picture", convert: "Callable[[Image.Image], T]", warn: bool = False) -> T:
    """Applies `convert` to the opened picture; turns any failure into a DigitNetError."""
    from PIL import Image

    file: Any = None
    try:
        with without_warnings():  # only the pixels matter, not odd metadata
            if isinstance(picture, Image.Image):
                return convert(_within_limits(picture))
            if hasattr(picture, "__array__") and not isinstance(picture, str | bytes):
                return convert(_from_array(np.asarray(picture)))
            file, page = file_of(picture)
            with Image.open(file, formats=FORMATS) as opened:
                if page:
                    seek_page(opened, page)
                elif warn:
                    warn_of_others(picture, file, opened)
                if convert is _grey and hasattr(opened, "draft"):
                    opened.draft("L", opened.size)  # a JPEG decoder then skips the colours
                return convert(_within_limits(opened))
    except DigitNetError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        raise DigitNetError(
            f"{name_of(picture)}: expected an image; received: {received(picture, file, error)}"
        ) from None


def _within_limits(picture: "Image.Image") -> "Image.Image":
    width, height = picture.size
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels; make it smaller, at most {_MAX_PIXELS // 10**6} million"
        )
    scans = _scans(picture)
    if width * height * scans > _MAX_PIXELS * _MAX_SCANS:
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


def _upright(picture: "Image.Image") -> "Image.Image":
    from PIL import ExifTags, ImageOps

    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(picture) if turned else picture  # which would be a copy


def _colour(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    upright = _upright(picture)
    if upright.mode.startswith("I") or upright.has_transparency_data:
        upright = Image.fromarray(_grey(picture))
    return upright.convert("RGB")


def _grey(picture: "Image.Image") -> np.ndarray:
    deep = picture.mode in ("RGB", "RGBA") and ";16" in str(getattr(picture, "tile", ""))
    upright = _upright(picture)
    if deep and np.asarray(upright.convert("RGB")).max() < 128:
        # Pillow keeps the upper eight of 16 bits of a colour, but all 16 of grey.
        raise ValueError(
            "16-bit colours that use fewer bits; convert it to 16-bit grey, or to PNG "
            "or JPEG of eight bits."
        )
    if upright.mode.startswith("I"):
        return _eight_bits(np.asarray(upright))
    if upright.mode == "F":
        low, high = upright.getextrema()
        raise ValueError(f"pixel values from {low} to {high}, neither 8-bit nor 16-bit.")
    if upright.has_transparency_data:
        if upright.mode not in ("LA", "RGBA"):
            upright = upright.convert("RGBA")  # palettes can be transparent too
        return _eight_bits(_on_paper(upright))
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
            f"pixel values from {values.min()} to {highest}, neither 8-bit nor 16-bit."
        )
    return (values >> max(highest.bit_length() - 8, 0)).astype(np.uint8)


def _on_paper(picture: "Image.Image") -> np.ndarray:
    """Composites a picture with alpha onto paper that contrasts with its ink, which may be faint.

    An opaque page with transparent corners is composited onto its own paper's grey.
    """
    from PIL import Image, ImageChops, ImageStat

    grey, alpha = picture.convert("L"), picture.getchannel("A")
    strongest = int(np.asarray(alpha).max())
    if strongest >= _MIN_ALPHA:
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
    if plain.dtype.kind == "u" and plain.dtype.itemsize == 2:  # of either byte order
        return Image.fromarray(_eight_bits(plain.astype(np.uint16)))
    highest = 1 if plain.dtype.kind in "bf" else 255
    if not (plain.min() >= 0 and plain.max() <= highest):
        raise DigitNetError(
            "picture: expected whole numbers from 0 to 255 or floats from 0 to 1; "
            f"received: {plain.dtype} from {plain.min()} to {plain.max()}."
        )
    return Image.fromarray(np.round(plain * (255 / highest)).astype(np.uint8))
