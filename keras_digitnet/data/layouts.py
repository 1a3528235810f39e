"""Detects the layout of a data set's file or folder and reads it."""

import logging
from collections.abc import Callable
from pathlib import Path

from keras_digitnet.data import class_folders, idx, npz, tables
from keras_digitnet.data.files import inventory, is_archive, listed, subfolders
from keras_digitnet.data.splits import Source
from keras_digitnet.errors import DigitNetError

logger = logging.getLogger(__name__)

# Each layout, how to detect it and how to read it; the first of several in a folder is read.
_LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Source]], ...] = (
    ("IDX files", idx.detect, idx.read),
    ("class folders", class_folders.detect, class_folders.read),
    ("tables", tables.detect, tables.read),
    (".npz files", npz.detect, npz.read_folder),
)
# Archives nest data sets in folders: MNIST/raw, mnist_png/training.
_DEPTH = 3
_EXPECTED = (
    "a folder of images for each class (0/, 1/, ...), with or without train/, test/ and valid/ "
    "around them; IDX files (train-images-idx3-ubyte ...); train.csv with a label and 784 pixels "
    "per row; train.parquet with image and label; or a .npz file in Keras's layout"
)


def read(path: Path) -> Source:
    """Reads the data set in a file or folder.

    Raises:
        DigitNetError: There is none, there are several, or it is damaged.
    """
    try:
        return _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        where = error.filename or path
        raise DigitNetError(
            f"{where}: expected to read it; received: {error.strerror or error}."
        ) from None


def _read_file(path: Path) -> Source:
    if tables.matches_name(path):
        return tables.read_file(path)
    if idx.matches_name(path):
        return idx.read(path.parent)
    if path.suffix.lower() == ".npz":
        return npz.read(path)
    what = "an archive; unpack it and pass its folder" if is_archive(path) else "none of these"
    raise DigitNetError(
        f"{path}: expected a .npz, .csv or .parquet file, or a folder; received: {what}."
    )


def _read_folder(folder: Path) -> Source:
    # Links may lead to one folder several times.
    found = list(
        {place.resolve(): (place, reads) for place, reads in _search(folder, _DEPTH)}.values()
    )
    if not found:
        raise DigitNetError(f"{folder}: expected {_EXPECTED}; received: {inventory(folder)}.")
    if len(found) > 1:
        names = listed(str(place.relative_to(folder)) for place, _ in found)
        raise DigitNetError(
            f"{folder}: expected one data set; received: {len(found)}, in {names}. "
            "Pass one of these folders; if they are classes, put the pictures directly into them."
        )
    ((place, reads),) = found
    if place != folder:
        logger.info("%s: the data set is in %s.", folder, place)
        beside = [p for p in subfolders(folder) if p not in (place, *place.parents)]
        if without := [p for p in beside if class_folders.has_pictures(p)]:
            logger.warning(
                "%s: skipped the pictures in %s, since the data set is in %s.",
                folder,
                listed(p.name for p in without),
                place,
            )
    return reads(place)


def _search(folder: Path, depth: int) -> list[tuple[Path, Callable[[Path], Source]]]:
    """The folders that hold a data set, each with its reader: this one, or else those in it."""
    here = [(layout, reads) for layout, detect, reads in _LAYOUTS if detect(folder)]
    if len(here) > 1:
        used, *others = [layout for layout, _ in here]
        logger.warning("%s: its %s are read, and its %s are not.", folder, used, listed(others))
    if here:
        return [(folder, here[0][1])]
    if depth == 0:
        return []
    found = []
    for place in subfolders(folder):
        try:
            found += _search(place, depth - 1)
        except PermissionError:  # `inventory` reports it if nothing else is found
            continue
    return found
