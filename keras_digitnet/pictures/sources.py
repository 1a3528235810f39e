"""Sources of pictures (paths, data URLs, bytes, open files) and their names in messages."""

import contextlib
import inspect
import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line, without_credentials
from keras_digitnet.pictures.files import MAX_PAGES, count_pages, first_bytes, kind_of, page_of

if TYPE_CHECKING:
    from typing import BinaryIO

    from PIL import Image

    # A path, a file's content, a data URL, an open file, a Pillow image or an array of pixels.
    Picture: TypeAlias = (
        str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
    )

logger = logging.getLogger(__name__)

BYTES = bytes | bytearray | memoryview  # the types of a picture file's content
_MAX_BYTES = 1 << 30  # of an open file, and of standard input
# Pillow detects the format from the content. Decoding some other formats starts other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
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
    content = sys.stdin.buffer.read(_MAX_BYTES + 1) if sys.stdin else b""
    if len(content) > _MAX_BYTES:
        raise DigitNetError(
            f"-: expected an image; received: more than {_MAX_BYTES >> 20} MiB of standard input."
        )
    return NamedBytes(content, "-")


def is_there(picture: str | NamedBytes) -> bool:
    """Whether the picture exists, whether or not it can be decoded."""
    if isinstance(picture, NamedBytes) or _DATA_URL.match(picture):
        return True
    return os.path.isfile(page_of(picture)[0])  # noqa: PTH113


def name_of(picture: "Picture") -> str:
    """The name of a picture for messages."""
    if not isinstance(picture, str | os.PathLike | NamedBytes):
        return "picture"
    name = str(picture)
    if _DATA_URL.match(name):
        return "data URL"
    name = without_credentials(name) if "://" in name else name
    short = len(name) <= _LONGEST_NAME and "\n" not in name
    return name if short else f"{name[:40]!r}..."


def file_of(picture: Any) -> tuple[Any, int | None]:
    """A path or an open file, and the number of the page if one is named."""
    if isinstance(picture, str | os.PathLike):
        if _DATA_URL.match(path := os.fspath(picture)):
            return io.BytesIO(_from_data_url(path)), None
        path, page = page_of(path)
        if not os.path.isfile(path):  # noqa: PTH113  (opening a pipe would block)
            raise FileNotFoundError
        return path, page
    if isinstance(picture, BYTES):
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
    try:
        content = file.read(_MAX_BYTES + 1)
    except UnicodeDecodeError:
        raise TypeError("a file opened as text; open it with mode 'rb'.") from None
    if not isinstance(content, BYTES):
        raise TypeError(
            f"a file that returns {type(content).__name__}, not bytes; open it with mode 'rb'."
        )
    if len(content) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES >> 20} MiB.")
    return bytes(content)


def seek_page(opened: "Image.Image", page: int) -> None:
    """Selects a page of a TIFF, counted from 1; raises ValueError if there is no such page."""
    try:
        if page > MAX_PAGES:
            raise ValueError(f"page {page}; at most {MAX_PAGES} of a file are read, so split it.")
        opened.seek(page - 1)
    except EOFError:
        raise ValueError(f"page {page} of a file that has fewer.") from None


def warn_of_others(picture: "Picture", file: Any, opened: "Image.Image") -> None:
    """Logs a warning if a TIFF has several pages, or a picture moves, since only the first is read.

    The further pictures in a phone's JPEG are previews and depths.
    """
    name = name_of(picture)
    if opened.format == "TIFF":
        pages = count_pages(io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file)
        if len(pages) > 1:
            logger.warning(
                "%s: %d pages; only the first is read. %s",
                name,
                len(pages),
                "Pass each page as a separate picture."
                if name in ("picture", "data URL")
                else f"The next one is {name}#page={pages[1]}",
            )
    elif opened.format != "MPO":
        with contextlib.suppress(Exception):  # a later frame is damaged
            if getattr(opened, "is_animated", False):
                logger.warning("%s: an animation; only its first frame is read.", name)


def received(picture: "Picture", file: Any, error: Exception) -> str:
    """Describes what was received, for the message about a picture that cannot be opened."""
    from PIL import UnidentifiedImageError

    if isinstance(picture, bytes) and not picture:
        return "no data."
    if isinstance(error, UnidentifiedImageError):
        start = file.getvalue()[:512] if isinstance(file, io.BytesIO) else first_bytes(file)
        if not start:
            return "an empty file, or one already read to its end."
        if start.startswith(b"version https://git-lfs"):
            return "a Git LFS pointer; fetch the file with: git lfs pull"
        kind = kind_of(start)
        known = kind and kind.upper() not in FORMATS
        return (
            f"a file that is none of {', '.join(FORMATS)}"
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
