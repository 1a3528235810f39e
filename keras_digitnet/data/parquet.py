"""Parquet files with a picture a row, as Hugging Face publishes data sets."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_digitnet.data.csv_files import LABELS
from keras_digitnet.data.files import listed, unpacks_to_too_much
from keras_digitnet.data.pictures import NormalizedPictures
from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.images import SIDE

SUFFIXES = (".parquet",)

_IMAGES = ("image", "img", "images", "picture")
_ROWS = 64  # in memory at a time


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        images: `(N, 28, 28)` uint8.
        labels: As they are written; none where there is no such column.
        class_names: Names of the labels' numbers, where the file tells them.
    """

    images: np.ndarray
    labels: list[str] | None
    class_names: dict[int, str] | None


def read(path: Path, pictures: NormalizedPictures) -> Table:
    """Reads a file with a column of pictures, each the content of a file or its pixels.

    Raises:
        DigitNetError: pyarrow is missing, it is no such file, or a picture is damaged.
    """
    parquet = import_extra("pyarrow.parquet", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            return _read(file, path, pictures)
    except DigitNetError:
        raise
    except Exception as error:  # whatever Arrow's exceptions are
        raise DigitNetError(
            f"{path}: expected a Parquet file with the columns image and label; "
            f"received: {first_line(error)}."
        ) from None


def _read(file: Any, path: Path, pictures: NormalizedPictures) -> Table:
    names = file.schema_arrow.names
    image = next((name for name in _IMAGES if name in names), None)
    label = next((name for name in LABELS if name in names), None)
    if image is None:
        raise ValueError(f"the columns {listed(names, 10) or 'none'}")
    rows = file.metadata.num_rows
    unpacked = sum(
        file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)
    )
    if unpacks_to_too_much(max(unpacked, rows * SIDE * SIDE), path):
        raise ValueError(f"{rows:,} rows of {unpacked:,} bytes in all")
    if not rows:
        raise ValueError("no row")
    images: list[np.ndarray] = []
    labels: list[Any] = []
    for batch in file.iter_batches(_ROWS, columns=[image, label] if label else [image]):
        for value in batch.column(image).to_pylist():
            images.append(_image(value, f"{path}: row {len(images) + 1}", pictures))
        labels += batch.column(label).to_pylist() if label else []
    if None in labels:
        raise ValueError(f"no label in row {labels.index(None) + 1}")
    return Table(
        np.stack(images),
        [str(value) for value in labels] if label else None,
        _class_names(file.schema_arrow.metadata or {}, label),
    )


def _image(value: Any, row: str, pictures: NormalizedPictures) -> np.ndarray:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, list):
        content = np.array(content)
    if content is None:
        raise DigitNetError(f"{row}: expected the bytes of a picture; received: none.")
    try:
        return pictures.add(content, row)
    except DigitNetError as error:
        raise DigitNetError(f"{row}: {str(error).removeprefix('picture: ')}") from None


def _class_names(metadata: dict[bytes, bytes], label: str | None) -> dict[int, str] | None:
    """What Hugging Face's `ClassLabel` tells of the label."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {number: str(name) for number, name in enumerate(features[label]["names"])}
    except (KeyError, TypeError, ValueError):
        return None
