"""Data sets with one folder of pictures per class, with or without train/ and test/ above them."""

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from keras_digitnet.data.files import (
    counted_by_suffix,
    files,
    inventory,
    listed,
    name_of_set,
    natural_sort_key,
    split_of,
    subfolders,
)
from keras_digitnet.data.pictures import PictureNormalizer
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.files import find_pictures, is_decoded, is_picture, walk

logger = logging.getLogger(__name__)


def detect(folder: Path) -> bool:
    """Whether a folder holds class folders, or train/, test/ and the like that do."""
    return bool(_splits(folder)) or len(_class_dirs(folder)) > 1


def read(folder: Path) -> Source:
    """Reads the class folders of `folder`; labels are the class names.

    Raises:
        DigitNetError: There is no training split, a class is empty, or a picture is damaged.
    """
    roots = _roots(folder)
    for root in roots.values():
        for place in filter(lambda each: split_of(each.name), subfolders(root)):
            raise DigitNetError(
                f"{place}: expected class folders in it; received: none, beside the class folders "
                f"of {root}. Move it elsewhere, or rename it if it is a class."
            )
    classes = {place.name for place in subfolders(roots["train"])}
    unread: list[Path] = []
    found = {split: _find(root, classes, unread) for split, root in sorted(roots.items())}
    _report_unread(folder, roots, unread)
    logger.info("%s: reading %d pictures.", folder, sum(map(len, found.values())))
    normalizer = PictureNormalizer(classes)
    splits = {
        split: Split(
            np.stack([normalizer.normalize(path, path) for path, _ in part]),
            np.array([name for _, name in part]),
        )
        for split, part in found.items()
    }
    normalizer.report(str(folder))
    return Source(name_of_set(folder), str(folder.absolute()), splits, in_mnist_form=True)


def _roots(folder: Path) -> dict[str, Path]:
    """The parent of the class folders of each split."""
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
    """The folders in `folder` that are named like a split and hold class folders."""
    found: dict[str, list[Path]] = defaultdict(list)
    for place in subfolders(folder):
        split = split_of(place.name)
        if split and (root := _class_root(place)):
            found[split].append(root)
    return dict(found)


def _class_root(place: Path) -> Path | None:
    """`place` if it holds class folders, else the one folder in it that does."""
    if _class_dirs(place):
        return place
    inside = subfolders(place)
    return _class_root(inside[0]) if len(inside) == 1 else None


def _class_dirs(folder: Path) -> list[Path]:
    """The folders with pictures; those in folders that are named like splits have no class."""
    return [p for p in subfolders(folder) if has_pictures(p) and not split_of(p.name)]


def has_pictures(folder: Path) -> bool:
    """Whether there are pictures in a folder itself."""
    return any(is_picture(path) for path in files(folder))


def _find(root: Path, classes: set[str], unread: list[Path]) -> list[tuple[str, str]]:
    """The pictures of a split with their classes; adds other files to `unread`."""
    found: list[tuple[str, str]] = []
    for class_dir in subfolders(root):
        name = class_dir.name
        if name not in classes:
            raise DigitNetError(
                f"{class_dir}: expected only the class folders "
                f"{listed(sorted(classes, key=natural_sort_key), 20)} in {root}."
            )
        before, unreadable = len(found), list[OSError]()
        for path in map(Path, walk(class_dir, unreadable)):
            if is_decoded(path):
                found += [(page, name) for page in find_pictures([path])]
            else:
                unread.append(path)
        if unreadable:
            raise unreadable[0]
        if len(found) == before:
            raise DigitNetError(f"{class_dir}: expected images; {inventory(class_dir)}.")
    return found


def _report_unread(folder: Path, roots: dict[str, Path], unread: list[Path]) -> None:
    """Warns of files in class folders that were not read, and of pictures outside of them."""
    if unread:
        logger.warning(
            "%s: skipped %d files in class folders: %s; the first is %s.",
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
            "%s: skipped, since not in a class folder: %s.",
            folder,
            listed(str(path.relative_to(folder)) for path in beside),
        )
