"""`.npz` files in Keras's layout."""

import zipfile
from pathlib import Path

import numpy as np

from keras_digitnet.data.files import files, is_decompression_bomb, listed
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError, first_line

_WANTED = ("x_train", "y_train", "x_test", "y_test")


def detect(folder: Path) -> bool:
    """Whether a folder holds `.npz` files."""
    return bool(_files(folder))


def read_folder(folder: Path) -> Source:
    """Reads the one `.npz` file of a folder.

    Raises:
        DigitNetError: There are several, or as for `read`.
    """
    found = _files(folder)
    if len(found) > 1:
        raise DigitNetError(
            f"{folder}: expected one .npz file; received: {listed(path.name for path in found)}. "
            "Pass one of them."
        )
    return read(found[0])


def _files(folder: Path) -> list[Path]:
    return [path for path in files(folder) if path.suffix.lower() == ".npz"]


def read(path: Path) -> Source:
    """Reads the four arrays of a file in Keras's layout.

    Raises:
        DigitNetError: The file is not an `.npz` file, damaged, or unpacks to too much.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if is_decompression_bomb(unpacked, path):
            raise ValueError(f"an archive that unpacks to {unpacked:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            if not set(_WANTED) <= set(file.files):
                raise ValueError(f"the arrays {', '.join(sorted(file.files)[:10]) or 'none'}")
            arrays = {key: file[key] for key in _WANTED}
        if not all(isinstance(array, np.ndarray) and array.ndim for array in arrays.values()):
            raise ValueError("something other than arrays of images and labels")
    except Exception as error:  # NumPy's and zipfile's parsers raise exceptions of any type
        raise DigitNetError(
            f"{path}: expected a .npz file in Keras's layout ({', '.join(_WANTED)}); "
            f"received: {first_line(error)}."
        ) from None
    splits = {
        split: Split(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test")
    }
    return Source(path.stem, str(path.absolute()), splits)
