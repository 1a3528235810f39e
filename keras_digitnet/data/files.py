"""Names, sizes and packing of a data set's files, and lists of them for messages."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from keras_digitnet.artifacts import MAX_UNPACKED
from keras_digitnet.pictures.files import is_picture, is_system_file

_SPLIT = re.compile(
    r"(?:^|[\W_])(?:(?P<train>train|training)|(?P<test>test|testing|tests|t10k)"
    r"|(?P<validation>val|valid|validation|validate))(?:sets?|data|images?|samples?)?(?:$|[\W_\d])",
    re.IGNORECASE,
)
# Generic names of folders, which do not name a data set.
_GENERIC_NAMES = {"raw", "data", "dataset", "images", "default", "processed", "png", "csv"}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def split_of(name: str) -> str | None:
    """The split, `train`, `test` or `validation`, that a file's or folder's name refers to, if any.

    Recognizes names such as `Training`, `trainSet`, `mnist_test.csv`,
    `train-00000-of-00001.parquet` and `val`.
    """
    match = _SPLIT.search(_words_parted(name))
    return match.lastgroup if match else None


def without_split(name: str) -> str:
    """A file's name without split, number and suffix, which is equal for the files of one set."""
    parted = _SPLIT.sub("-", _words_parted(name.partition(".")[0]))
    return re.sub(r"-\d+-of-\d+", "", parted).strip("-_. ").lower()


def _words_parted(name: str) -> str:
    """`mnist_Train` for `mnistTrain`, but `tRaIn` as it is."""
    return name if _SPLIT.search(name) else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def entries(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted by name, without system files."""
    return sorted(entry for entry in folder.iterdir() if not is_system_file(entry.name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without system files."""
    return [entry for entry in entries(folder) if entry.is_dir()]


def files(folder: Path) -> list[Path]:
    """The files in a folder, sorted by name, without system files."""
    return [entry for entry in entries(folder) if entry.is_file()]


def natural_sort_key(name: str) -> tuple[int, str]:
    """A sort key that puts numbers before words and orders them by value."""
    return (int(name) if name.isdecimal() else 10**9, name)


def as_text(name: str) -> str:
    """A name of arbitrary bytes as text that can be printed and plotted."""
    return name.encode("utf-8", "replace").decode()


def name_of_set(folder: Path) -> str:
    """The name of a data set's folder, or of its nearest parent whose name is not generic."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.name.lower() not in _GENERIC_NAMES and split_of(place.name) is None:
            return place.name
    return folder.absolute().name


def is_archive(path: Path) -> bool:
    """Whether a file is an archive or compressed, by its suffix."""
    return path.name.lower().endswith(_ARCHIVES)


def is_decompression_bomb(unpacked: int, path: Path) -> bool:
    """Whether a file that unpacks to this many bytes is a decompression bomb.

    Digits compress about 5 to 1; above `MAX_UNPACKED` a ratio of 20 is refused.
    """
    return unpacked > max(MAX_UNPACKED, 20 * path.stat().st_size)


def open_unpacked(path: Path) -> tuple[BinaryIO, bool]:
    """Opens a file, unpacked if it is compressed by gzip; also returns whether it is.

    The suffix does not tell: browsers may unpack a download but keep its name.
    """
    with path.open("rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, (gzip.open if packed else open)(path, "rb")), packed


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message, with a count of those beyond the first few."""
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def counted_by_suffix(paths: Iterable[Path]) -> str:
    """The number of files by suffix: `12 .heic, 1 .txt`."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return listed(f"{count} {suffix}" for suffix, count in counts.most_common())


def inventory(folder: Path) -> str:
    """The contents of a folder, for a message that refuses it."""
    held = [f"{place.name}/ ({_held(place)})" for place in subfolders(folder)]
    parts = [f"folders {listed(held)}"] if held else []
    if loose := files(folder):
        parts.append(f"files: {counted_by_suffix(loose)} ({listed((p.name for p in loose), 3)})")
        if archives := [path.name for path in loose if is_archive(path)]:
            parts.append(f"unpack {listed(archives)} first")
    return "; ".join(parts) or "the folder is empty"


def _held(folder: Path) -> str:
    """A summary of a folder's contents by its first entries."""
    try:
        inside = entries(folder)
    except OSError:
        return "unreadable"
    pictures = sum(is_picture(path) for path in inside[:1000] if path.is_file())
    if pictures:
        return f"{pictures}{' or more' if len(inside) > 1000 else ''} pictures"
    folders = sum(path.is_dir() for path in inside)
    kinds = ((folders, "folders"), (len(inside) - folders, "files, no picture"))
    return ", ".join(f"{count} {kind}" for count, kind in kinds if count) or "empty"
