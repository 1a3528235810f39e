"""A folder of pictures for each class, with or without train/ and test/ around them."""

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from keras_digitnet.data.files import (
    counted_by_suffix,
    entries,
    files,
    inventory,
    listed,
    name_of_set,
    natural,
    split_of,
    subfolders,
)
from keras_digitnet.data.pictures import NormalizedPictures
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.picture_files import find_pictures, is_decoded, is_picture, walk

logger = logging.getLogger(__name__)


def is_there(folder: Path) -> bool:
    """Whether a folder holds class folders, or folders of them for training and test."""
    return bool(_splits(folder)) or len(_unsplit_classes(folder)) > 1


def read(folder: Path) -> Source:
    """Reads the class folders of `folder`; labels are the classes' names.

    Raises:
        DigitNetError: There is no training split, a class is empty, or a picture is damaged.
    """
    roots = _roots(folder)
    names = {place.name for place in subfolders(roots["train"])}
    pictures = NormalizedPictures(digits=names == set("0123456789"))
    unread: list[Path] = []
    splits = {
        split: _read_split(root, names, pictures, unread) for split, root in sorted(roots.items())
    }
    _report_unread(folder, roots, unread)
    pictures.report(str(folder))
    return Source(name_of_set(folder), str(folder.absolute()), splits, in_mnist_form=True)


def _roots(folder: Path) -> dict[str, Path]:
    """Where the class folders of each split are."""
    found = _splits(folder)
    for split, roots in found.items():
        if len(roots) > 1:
            raise DigitNetError(
                f"{folder}: expected one folder for {split}; "
                f"received: {listed(str(root.relative_to(folder)) for root in roots)}."
            )
    if found and "train" not in found:
        ((other,), *_) = found.values()
        raise DigitNetError(
            f"{folder}: expected train/ beside {other.relative_to(folder)}/; there is none."
        )
    return {split: root for split, (root,) in found.items()} or {"train": folder}


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The folders in `folder` that are a split by their name and hold class folders."""
    found: dict[str, list[Path]] = defaultdict(list)
    for place in subfolders(folder):
        split = split_of(place.name)
        if split and (root := _class_root(place)):
            found[split].append(root)
    return dict(found)


def _class_root(place: Path) -> Path | None:
    """`place` if it holds class folders, else the one folder in it that does."""
    inside = subfolders(place)
    if any(map(_has_pictures, inside)):
        return place
    return _class_root(inside[0]) if len(inside) == 1 else None


def _unsplit_classes(folder: Path) -> list[Path]:
    """Class folders; those that are all called train or test are pictures without classes."""
    found = [place for place in subfolders(folder) if _has_pictures(place)]
    return [] if all(split_of(place.name) for place in found) else found


def _has_pictures(folder: Path) -> bool:
    return any(is_picture(path) for path in files(folder))


def _read_split(
    root: Path, names: set[str], pictures: NormalizedPictures, unread: list[Path]
) -> Split:
    images: list[np.ndarray] = []
    labels: list[str] = []
    for class_dir in subfolders(root):
        if class_dir.name not in names:
            raise DigitNetError(
                f"{class_dir}: expected only the class folders "
                f"{listed(sorted(names, key=natural), 20)} in {root}."
            )
        before = len(images)
        closed: list[OSError] = []
        for path in map(Path, walk(class_dir, closed)):
            if not is_decoded(path):
                unread.append(path)
                continue
            for page in find_pictures([path]):
                images.append(pictures.add(page, page))
                labels.append(class_dir.name)
        if closed:
            raise closed[0]
        if len(images) == before:
            received = "the folder is empty" if not entries(class_dir) else inventory(class_dir)
            raise DigitNetError(f"{class_dir}: expected images; {received}.")
    return Split(np.stack(images), np.array(labels))


def _report_unread(folder: Path, roots: dict[str, Path], unread: list[Path]) -> None:
    """Says which files were no pictures that are read here, and what lies beside the classes."""
    if unread:
        logger.warning(
            "%s: %d files in class folders are not read: %s; the first is %s.",
            folder,
            len(unread),
            counted_by_suffix(unread),
            unread[0],
        )
    used = set(roots.values())
    beside = [path for root in used for path in files(root) if is_picture(path)]
    if folder not in used:
        beside += [path for path in files(folder) if is_picture(path)]
        split_dirs = {next(p for p in (root, *root.parents) if p.parent == folder) for root in used}
        beside += [place for place in subfolders(folder) if place not in split_dirs]
    if beside:
        logger.warning(
            "%s: not read, since it is in no class folder: %s.",
            folder,
            listed(str(path.relative_to(folder)) for path in beside),
        )
