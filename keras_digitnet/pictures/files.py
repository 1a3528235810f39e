"""Finds picture files and the pages of TIFFs."""

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Suffixes that this package decodes.
_READ = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".webp", ".avif", ".pbm", ".pgm", ".ppm", ".pnm"),
)
# Suffixes of pictures that it does not decode: an error is reported instead of skipping them.
_NOT_READ = (
    *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".svg", ".svgz", ".pdf"),
    *(".eps", ".ps", ".ai", ".psd", ".xcf", ".djvu", ".djv", ".dcm", ".ico", ".tga", ".pcx"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".emf", ".wmf", ".exr"),
    *(".hdr", ".xbm", ".xpm", ".qoi", ".pfm", ".pam"),
)
_DECODED_KINDS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "BMP": rb"BM.{4}\0\0\0\0",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "WebP": rb"RIFF.{4}WEBP",
    "PPM": rb"P[1-6]\s(\s|#[^\n]*\n)*\d",
    "AVIF": rb".{4}ftypavi[fs]",
}
_OTHER_KINDS = {
    "HEIC": rb".{4}ftyp(hei[cxms]|hev[cmsx]|mif1|msf1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS",
    "Photoshop": rb"8BPS",
    "DjVu": rb"AT&TFORM",
    "SVG": rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<svg\b",
}
# Files that Windows, macOS and network drives leave in folders; none of them is data.
_SYSTEM_FILE = re.compile(
    r"\..*|thumbs\.db|ehthumbs.*\.db|desktop\.ini|icon\r|__macosx|@eadir|\$recycle\.bin"
    r"|system volume information",
    re.IGNORECASE,
)
_PAGE = re.compile(r"(.+)#page=([1-9]\d{0,8})", re.DOTALL)
MAX_PAGES = 1000

_lock = threading.Lock()
_without_warnings = 0  # threads that are inside
_filters = contextlib.ExitStack()


def is_system_file(name: str) -> bool:
    """Whether a file or folder name is hidden or belongs to the operating system."""
    return _SYSTEM_FILE.fullmatch(name) is not None


def kind_of(start: bytes) -> str | None:
    """The kind of picture that starts with these bytes, 512 at least; `None` if unknown."""
    for kind, signature in (_DECODED_KINDS | _OTHER_KINDS).items():
        if re.match(signature, start, re.DOTALL):
            return kind
    return None


def is_picture(path: str | Path) -> bool:
    """Whether a file is a picture, by suffix or content, even of a kind not decoded here."""
    if os.path.splitext(path)[1].lower() in (*_READ, *_NOT_READ):  # noqa: PTH122
        return True
    return kind_of(first_bytes(path)) is not None


def is_decoded(path: str | Path) -> bool:
    """Whether a picture is of a kind that is decoded here: if decoding fails, it is damaged."""
    kind = kind_of(first_bytes(path))
    return kind in _DECODED_KINDS if kind else os.path.splitext(path)[1].lower() in _READ  # noqa: PTH122


def can_decode(start: bytes) -> bool:
    """Whether a file that starts with these bytes, 512 at least, is a picture decoded here."""
    return kind_of(start) in _DECODED_KINDS


def first_bytes(path: str | Path) -> bytes:
    """The first 512 bytes of a file; empty if it is unreadable or a pipe."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113  (opening a pipe would block)
            return b""
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(512)
    except OSError:
        return b""


def find_pictures(paths: Iterable[str | Path]) -> Iterator[str]:
    """Yields the named files, and all pictures in the named folders recursively, sorted by name.

    Each page of a TIFF is a picture of its own: `scan.tif#page=2`. A folder
    that holds no picture or cannot be read is yielded itself, so that reading
    it reports the error.
    """
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  (pathlib's raises for some names)
            yield from _page_names(str(path))
            continue
        unreadable: list[OSError] = []
        empty = True
        for file in walk(path, unreadable):
            if is_picture(file):
                empty = False
                yield from _page_names(file)
        yield from (str(error.filename) for error in unreadable)
        if empty and not unreadable:
            yield str(path)


def walk(folder: str | Path, unreadable: list[OSError] | None = None) -> Iterator[str]:
    """Yields the files in a folder recursively, sorted by name; skips system files, follows links.

    Args:
        folder: Where to start.
        unreadable: Receives the errors of folders that cannot be read.
    """
    start = Path(folder).resolve()
    # The real paths of each folder and of those above it.
    above = {str(Path(folder)): {start, *start.parents}}
    on_error = None if unreadable is None else unreadable.append
    for place, subfolders, names in os.walk(folder, onerror=on_error, followlinks=True):
        here = Path(place)
        if str(here) not in above:
            parents, real = above[str(here.parent)], here.resolve()
            if real in parents:  # a link back to a parent
                subfolders.clear()
                continue
            above[str(here)] = {*parents, real}
        subfolders[:] = sorted(name for name in subfolders if not is_system_file(name))
        yield from (str(Path(place, name)) for name in sorted(names) if not is_system_file(name))


def page_of(path: str) -> tuple[str, int | None]:
    """The file that a name refers to, and the page, from 1 on, that follows `#page=`, if any."""
    match = _PAGE.fullmatch(path)
    if match is None or os.path.lexists(path):  # a file may have such a name
        return path, None
    return match[1], int(match[2])


def count_pages(file: Any) -> list[int]:
    """The numbers of a TIFF's pages, without the thumbnails that cameras and scanners add.

    Args:
        file: A path, or an open file.

    Returns:
        Page numbers from 1 on; `[1]` for any other file. If a page is damaged,
        or there are more than `MAX_PAGES`, its number is the last.
    """
    from PIL import Image

    pages: list[int] = []
    number = 1
    try:
        with without_warnings(), Image.open(file, formats=["TIFF"]) as opened:
            while number <= MAX_PAGES:
                opened.seek(number - 1)
                reduced = opened.tag_v2.get(254, 0) & 1  # type: ignore[attr-defined]
                pages += [] if reduced else [number]
                number += 1
            pages.append(number)
    except EOFError:
        pass
    except Exception:  # Pillow's decoders raise exceptions of any type
        pages += [number] if number > 1 else []
    return pages or [1]


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Ignores Python's warnings; the last of several threads to leave restores them.

    `warnings.catch_warnings` alone may restore the filters of another thread.
    """
    global _without_warnings
    with _lock:
        if not _without_warnings:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _without_warnings += 1
    try:
        yield
    finally:
        with _lock:
            _without_warnings -= 1
            if not _without_warnings:
                _filters.close()


def _page_names(path: str) -> Iterator[str]:
    if not path.lower().endswith((".tif", ".tiff")) or len(pages := count_pages(path)) == 1:
        yield path
    else:
        yield from (f"{path}#page={page}" for page in pages)
