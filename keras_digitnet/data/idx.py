"""IDX files, the format in which MNIST and similar data sets are published."""

import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from keras_digitnet.data import emnist
from keras_digitnet.data.files import (
    entries,
    is_decompression_bomb,
    listed,
    name_of_set,
    open_unpacked,
    split_of,
)
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError

_FILE = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?",
    re.IGNORECASE,
)


def detect(folder: Path) -> bool:
    """Whether a folder holds IDX files of images."""
    return any(what == "images" for _, _, what in _find(folder))


def matches_name(path: Path) -> bool:
    """Whether a path's name is that of an IDX file."""
    return _FILE.fullmatch(path.name) is not None


def read(folder: Path) -> Source:
    """Reads the one set of IDX files in a folder.

    Raises:
        DigitNetError: There are several sets, or a file is missing or damaged.
    """
    found = _find(folder)
    sets = {name for name, _, what in found if what == "images"}
    if len(sets) > 1:
        raise DigitNetError(
            f"{folder}: expected one data set; received: {listed(sorted(sets))}. "
            "Put each into a folder of its own."
        )
    (name,) = sets
    splits = {}
    for split in ("train", "test"):
        if images_path := found.get((name, split, "images")):
            if not (labels_path := found.get((name, split, "labels"))):
                wanted = re.sub("images", "labels", images_path.name, flags=re.IGNORECASE)
                raise DigitNetError(
                    f"{images_path}: expected its labels beside it, in "
                    f"{wanted.replace('idx3', 'idx1')}; there are none."
                )
            images = emnist.upright(read_idx(images_path, 3), name)
            splits[split] = Split(images, read_idx(labels_path, 1))
    if "train" not in splits:
        raise DigitNetError(
            f"{folder}: expected train-images-idx3-ubyte; "
            f"received: {listed(path.name for path in found.values())}."
        )
    return Source(
        name or name_of_set(folder),
        str(folder.absolute()),
        splits,
        emnist.class_names(folder, name),
    )


def _find(folder: Path) -> dict[tuple[str, str, str], Path]:
    """The IDX files of a folder by set, split and content (`images` or `labels`).

    Each file may be in a folder of its own name, or in one of its split. If a
    file is there both compressed and not, as torchvision leaves it, the
    uncompressed one is used.
    """
    found = {}
    for entry in reversed(entries(folder)):
        inside = [entry]
        if entry.is_dir():
            sought = _FILE.fullmatch(entry.name) or split_of(entry.name)
            inside = entries(entry)[::-1] if sought else []
        for path in inside:
            if (match := _FILE.fullmatch(path.name)) and path.is_file():
                split = "train" if match["split"].lower() == "train" else "test"
                found[match["set"].strip("-_. "), split, match["what"].lower()] = path
    return dict(sorted(found.items()))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads a uint8 array from an IDX file, plain or compressed by gzip.

    Layout: two zero bytes, the type (8 for uint8), the number of dimensions,
    each size as a big-endian uint32, the bytes (LeCun, "The MNIST database").

    Args:
        path: The file.
        dimensions: The expected number of dimensions.

    Raises:
        DigitNetError: The file is not an IDX file, truncated, or too large.
    """
    try:
        file, _ = open_unpacked(path)
        with file:
            magic = file.read(4)
            if magic != bytes((0, 0, 8, dimensions)):
                raise DigitNetError(
                    f"{path}: expected an IDX file of uint8 in {dimensions} dimensions (magic "
                    f"0000080{dimensions}); received: magic {magic.hex() or 'none'}."
                )
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise DigitNetError(f"{path}: the IDX header is truncated; get the file again.")
            shape = struct.unpack(f">{dimensions}I", header)
            expected = math.prod(shape)
            # One more byte than expected detects a file that is too long. The header's size is not
            # trusted for the allocation.
            content = file.read(1 if is_decompression_bomb(expected, path) else expected + 1)
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise DigitNetError(f"{path}: expected an IDX file; received: {error}.") from None
    if len(content) != expected:
        received = f"{len(content)}" if len(content) < expected else "more"
        raise DigitNetError(
            f"{path}: expected {expected} bytes for shape {shape}; received: {received}. "
            "The file is damaged; get it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
