"""Parquet files with one picture per row, as on Hugging Face."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_digitnet.config import SIDE
from keras_digitnet.data.csv_files import LABELS
from keras_digitnet.data.files import is_decompression_bomb, listed
from keras_digitnet.data.pictures import PictureNormalizer
from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError, first_line

SUFFIXES = (".parquet",)

_IMAGES = ("image", "img", "images", "picture")
_ROWS = 16  # in memory at a time


@dataclass(frozen=True)
class Labels:
    """The labels of a file.

    Attributes:
        written: The labels as text.
        class_names: Names of the numeric labels, if the file has them.
    """

    written: list[str]
    class_names: dict[int, str] | None


def read_labels(path: Path) -> Labels | None:
    """Reads the labels of a file with a column of pictures; `None` if it has no labels.

    Raises:
        DigitNetError: pyarrow is not installed, or the file is not such a Parquet file.
    """
    with _opened(path) as (file, _, label):
        if label is None:
            return None
        labels = file.read([label]).column(label).to_pylist()
        for row, value in enumerate(labels, start=1):
            if value is None or value != value:  # a NaN differs from itself
                raise ValueError(f"no label in row {row}")
        written = [
            value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            for value in labels
        ]
        return Labels(written, _class_names(file.schema_arrow.metadata, label))


def read_images(path: Path, normalizer: PictureNormalizer) -> np.ndarray:
    """Reads and normalizes the pictures of a file to `(N, 28, 28)` uint8.

    Raises:
        DigitNetError: As for `read_labels`, or a picture is damaged.
    """
    images: list[np.ndarray] = []
    with _opened(path) as (file, image, _):
        for batch in file.iter_batches(_ROWS, columns=[image]):
            for value in batch.column(image).to_pylist():
                images.append(_image(value, f"{path}: row {len(images) + 1}", normalizer))
    return np.stack(images)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str, str | None]]:
    """The open file, and its columns of pictures and labels."""
    parquet = import_extra("pyarrow.parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            image = _column(names, _IMAGES)
            if image is None:
                raise ValueError(f"the columns {listed(names, 10) or 'none'}")
            _require_size(file, path)
            yield file, image, _column(names, LABELS)
    except DigitNetError:
        raise
    except Exception as error:  # Arrow raises exceptions of several types
        raise DigitNetError(
            f"{path}: expected a Parquet file with the columns image and label; "
            f"received: {first_line(error).rstrip('.')}."
        ) from None


def _column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first wanted column, ignoring case."""
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in wanted if name in lower), None)


def _require_size(file: Any, path: Path) -> None:
    rows, groups = file.metadata.num_rows, range(file.num_row_groups)
    unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if not rows or is_decompression_bomb(max(unpacked, rows * SIDE * SIDE), path):
        raise ValueError(f"{rows:,} rows of {unpacked:,} bytes in all")


def _image(value: Any, row: str, normalizer: PictureNormalizer) -> np.ndarray:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, list):
        content = np.array(content)
    if content is None:
        raise DigitNetError(f"{row}: expected the bytes of a picture; received: none.")
    try:
        return normalizer.normalize(content, row)
    except DigitNetError as error:
        raise DigitNetError(f"{row}: {str(error).removeprefix('picture: ')}") from None


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> dict[int, str] | None:
    """The class names in the metadata of Hugging Face's `ClassLabel`, if there are any."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {number: str(name) for number, name in enumerate(features[label]["names"])}
    except (KeyError, TypeError, ValueError):
        return None
