"""Data sets of CSV or Parquet tables with one image per row."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_digitnet.data import csv_files, emnist, parquet
from keras_digitnet.data.files import (
    files,
    listed,
    name_of_set,
    split_of,
    subfolders,
    without_split,
)
from keras_digitnet.data.pictures import PictureNormalizer
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError

logger = logging.getLogger(__name__)

# The tables of one set by split.
Tables = dict[str, list[Path]]


def matches_name(path: Path) -> bool:
    """Whether a path's name is that of a table."""
    return path.name.lower().endswith((*csv_files.SUFFIXES, *parquet.SUFFIXES))


def detect(folder: Path) -> bool:
    """Whether a folder holds tables of images."""
    return bool(_find(folder))


def read(folder: Path) -> Source:
    """Reads the one set of tables in a folder.

    Raises:
        DigitNetError: There are several sets, or a file is not a table or is damaged.
    """
    sets = _find(folder)
    trained = {name: tables for name, tables in sets.items() if "train" in tables}
    if len(trained) != 1:
        paths = [str(path.relative_to(folder)) for path in _paths(trained or sets)]
        expected = "one data set" if trained else "a table for training, such as train.csv,"
        raise DigitNetError(
            f"{folder}: expected {expected}; received: {listed(paths)}. Pass one file."
        )
    ((name, tables),) = trained.items()
    for split in ("validation", "test"):
        others = [found[split] for found in sets.values() if split in found]
        if split not in tables and len(others) == 1:
            tables[split] = others[0]
    return _read(tables, name or name_of_set(folder), folder)


def read_file(path: Path) -> Source:
    """Reads a table and, if it is a training table, the others of its set beside it.

    Raises:
        DigitNetError: A file is not a table or is damaged.
    """
    tables = {"train": [path]}
    name = without_split(path.name)
    if split_of(path.name) == "train":
        tables = _find(path.parent).get(name, {}) | tables
    return _read(tables, name or name_of_set(path.parent), path)


def _find(folder: Path) -> dict[str, Tables]:
    """The tables in a folder, and in its folders that are named like splits, by set.

    If no name refers to a split, each table is a training set of its own.
    """
    found: dict[str, Tables] = defaultdict(lambda: defaultdict(list))
    alone: dict[str, Tables] = {}
    for split, path in _candidates(folder):
        name = "" if path.parent != folder else without_split(path.name)
        if split is None:
            alone[name or path.stem] = {"train": [path]}
        elif not _has_unpacked_copy(path):
            found[name][split].append(path)
    return {name: dict(tables) for name, tables in found.items()} or alone


def _candidates(folder: Path) -> list[tuple[str | None, Path]]:
    inside = [(split_of(path.name), path) for path in files(folder)]
    for place in subfolders(folder):
        if split := split_of(place.name):
            inside += [(split, path) for path in files(place)]
    return [(split, path) for split, path in inside if matches_name(path) and _is_table(path)]


def _is_table(path: Path) -> bool:
    """Whether a file is a table; any Parquet file is, so that an error names what it lacks."""
    return _is_parquet(path) or csv_files.is_table(path)


def _has_unpacked_copy(path: Path) -> bool:
    return path.suffix.lower() == ".gz" and path.with_suffix("").is_file()


def _paths(sets: dict[str, Tables]) -> list[Path]:
    return [path for tables in sets.values() for paths in tables.values() for path in paths]


def _read(tables: Tables, name: str, where: Path) -> Source:
    """Reads the tables of a set: either all of them CSV, or all Parquet."""
    if len(paths := _paths({name: tables})) > 1:
        logger.info("%s: read %s.", where, listed(str(path) for path in paths))
    for path in files(where if where.is_dir() else where.parent):
        if split_of(path.name) and matches_name(path) and not _is_table(path):
            logger.warning("%s: skipped, since it is damaged or has no pixels in columns.", path)
    kinds = {_is_parquet(path) for path in paths}
    if len(kinds) > 1:
        raise DigitNetError(
            f"{where}: expected CSV or Parquet files; received: {listed(map(str, paths))}. "
            "Pass one file."
        )
    return (_read_parquet if kinds == {True} else _read_csv)(tables, name, where)


def _read_csv(tables: Tables, name: str, where: Path) -> Source:
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for split, paths in tables.items():
        found = [csv_files.read(path) for path in paths]
        if _is_labelled(split, paths, [written for _, written in found]):
            images[split] = np.concatenate([
                emnist.upright(part, without_split(path.name))
                for path, (part, _) in zip(paths, found, strict=True)
            ])  # fmt: skip
            labels[split] = np.concatenate([written or [] for _, written in found])
    folder = where if where.is_dir() else where.parent
    parts = _to_splits(images, _numeric_labels(labels))
    return Source(name, str(where.absolute()), parts, emnist.class_names(folder, name))


def _read_parquet(tables: Tables, name: str, where: Path) -> Source:
    """Reads all labels first: the classes decide how pictures are normalized."""
    found = {
        split: [parquet.read_labels(path) for path in paths] for split, paths in tables.items()
    }
    labels = _numeric_labels({
        split: np.concatenate([part.written for part in parts if part])
        for split, parts in found.items()
        if _is_labelled(split, tables[split], parts)
    })  # fmt: skip
    names = next((part.class_names for part in found["train"] if part), None)
    classes = {str((names or {}).get(value, value)) for value in labels["train"].tolist()}
    normalizer = PictureNormalizer(classes)
    images = {
        split: np.concatenate([parquet.read_images(path, normalizer) for path in tables[split]])
        for split in labels
    }
    normalizer.report(str(where))
    parts = _to_splits(images, labels)
    return Source(name, str(where.absolute()), parts, names, in_mnist_form=True)


def _to_splits(images: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, Split]:
    return {split: Split(images[split], labels[split]) for split in labels}


def _is_labelled(split: str, paths: list[Path], labels: Sequence[object]) -> bool:
    """Whether all tables of a split have labels; warns if a test set has none."""
    without = [path for path, found in zip(paths, labels, strict=True) if found is None]
    if without and split == "train":
        raise DigitNetError(f"{without[0]}: expected a column called label; there is none.")
    if without:
        logger.warning("%s: skipped, since it has no column called label.", without[0])
    return not without


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(parquet.SUFFIXES)


def _numeric_labels(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts the labels to int64 if all are whole numbers as text, such as 7 and 7.0."""
    try:
        numbers = {split: written.astype(float) for split, written in labels.items()}
    except ValueError:
        return labels
    if not all(np.isin(values, np.arange(-1000, 100_000)).all() for values in numbers.values()):
        return labels
    return {split: values.astype(np.int64) for split, values in numbers.items()}
