"""Names, sizes and contents of the files that a data set consists of."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from keras_digitnet.artifacts import MOST_UNPACKED
from keras_digitnet.picture_files import is_litter, is_picture

_SPLIT = re.compile(
    r"(?:^|[\W_])(?:(?P<train>train|training)|(?P<test>test|testing|tests|t10k)"
    r"|(?P<validation>val|valid|validation|validate))(?:sets?|data|images?|samples?)?(?:$|[\W_\d])",
    re.IGNORECASE,
)
# What an archive or a tool calls a folder in which it puts any data set.
_NAMES_NOTHING = {"raw", "data", "dataset", "images", "default", "processed", "png", "csv"}
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def split_of(name: str) -> str | None:
    """`train`, `test` or `validation`, if a file's or folder's name is that of a split.

    `Training`, `trainSet`, `mnist_test.csv`, `train-00000-of-00001.parquet`,
    `val`: whatever people and published sets use.
    """
    match = _SPLIT.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    return match.lastgroup if match else None


def without_split(name: str) -> str:
    """The name of a file without its split, number and suffix: the same for files of one set."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.partition(".")[0])
    parted = re.sub(r"-\d+-of-\d+", "", _SPLIT.sub("-", parted))
    return parted.strip("-_. ").lower()


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name, without litter."""
    return sorted(entry for entry in folder.iterdir() if not is_litter(entry.name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without litter and without what is closed to this user."""
    return [entry for entry in entries(folder) if entry.is_dir()]


def files(folder: Path) -> list[Path]:
    """The files in a folder, by name, without litter."""
    return [entry for entry in entries(folder) if entry.is_file()]


def natural(name: str) -> tuple[int, str]:
    """Sorts numbers by their value and before words."""
    return (int(name) if name.isdecimal() else 10**9, name)


def as_text(name: str) -> str:
    """A name that may be made of any bytes, as text that can be printed and drawn."""
    return name.encode("utf-8", "replace").decode()


def name_of_set(folder: Path) -> str:
    """A folder's name, or of those around it the nearest that tells something."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.name.lower() not in _NAMES_NOTHING and split_of(place.name) is None:
            return place.name
    return folder.absolute().name


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(_ARCHIVES)


def unpacks_to_too_much(unpacked: int, path: Path) -> bool:
    """Digits pack 5 to 1: what unpacks to 20 times its size is none, if it is large."""
    return unpacked > max(MOST_UNPACKED, 20 * path.stat().st_size)


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message, the first few of many."""
    shown = list(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def counted_by_suffix(paths: Iterable[Path]) -> str:
    """How many files of which kind: `12 .heic, 1 .txt`."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return listed(f"{count} {suffix}" for suffix, count in counts.most_common())


def inventory(folder: Path) -> str:
    """What a folder really holds, for a message that refuses it."""
    held = [f"{place.name}/ ({_held(place)})" for place in subfolders(folder)]
    parts = [f"folders {listed(held)}"] if held else []
    if loose := files(folder):
        parts.append(f"files: {counted_by_suffix(loose)} ({listed((p.name for p in loose), 3)})")
        if archives := [path.name for path in loose if is_archive(path)]:
            parts.append(f"unpack {listed(archives)} first")
    return "; ".join(parts) or "the folder is empty"


def _held(folder: Path) -> str:
    """A few words on a folder's content, told from its first entries."""
    try:
        inside = entries(folder)
    except OSError:
        return "closed"
    pictures = sum(is_picture(path) for path in inside[:1000] if path.is_file())
    if pictures:
        return f"{pictures}{' or more' if len(inside) > 1000 else ''} pictures"
    folders = sum(path.is_dir() for path in inside)
    kinds = ((folders, "folders"), (len(inside) - folders, "files, no picture"))
    return ", ".join(f"{count} {kind}" for count, kind in kinds if count) or "empty"
