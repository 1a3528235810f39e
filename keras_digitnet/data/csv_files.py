"""CSV files with one image per row, a label and 784 pixels, like Kaggle's MNIST."""

import csv
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet.config import SIDE
from keras_digitnet.data.files import is_decompression_bomb, open_unpacked
from keras_digitnet.errors import DigitNetError, first_line

SUFFIXES = (".csv", ".csv.gz")
LABELS = ("label", "labels", "class", "target", "digit", "y")

_PIXELS = SIDE * SIDE
_ROW_NUMBERS = ("", "index", "id", "imageid", "unnamed: 0")
_PIXEL = re.compile(r"[^\d.]*\d+(?:[x_, ]\d+)?")
_LONGEST_LINE = 1 << 20
_LINES = 2000  # parsed at a time
_RELATIVE_ROW = re.compile(r" at row \d+.*")  # in NumPy's messages, of the rows parsed at a time


@dataclass(frozen=True)
class _Columns:
    """The delimiter, the columns, which of them hold the label and the pixels, and the header."""

    delimiter: str
    count: int
    label: int | None
    pixels: list[int]
    has_header: bool


def is_table(path: Path) -> bool:
    """Whether a file has enough columns to be pixels."""
    try:
        return len(_columns(next(_lines(path), "")).pixels) > 50
    except PermissionError:
        return True  # so that reading it reports the error
    except (ValueError, OSError, EOFError, zlib.error, csv.Error):
        return False


def read(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Reads the images `(N, 28, 28)` uint8, and the labels as text, if there are any.

    Raises:
        DigitNetError: The file is not a CSV file, damaged, or unpacks to too much.
    """
    try:
        lines = _lines(path)
        first = next(lines, "")
        columns = _columns(first)
        if len(columns.pixels) != _PIXELS:
            raise ValueError(f"{len(columns.pixels)} columns beside the label")
        rows = lines if columns.has_header else itertools.chain([first], lines)
        images, labels = _read_rows(rows, columns)
    except (ValueError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise DigitNetError(
            f"{path}: expected a CSV file with a column for the label and {_PIXELS} for the pixels "
            f"of 28x28, whole numbers from 0 to 255; received: {first_line(error).rstrip('.')}."
        ) from None
    return images, labels


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines that are not blank, unpacked."""
    raw, packed = open_unpacked(path)
    unpacked = 0
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=None) as file:
        while line := file.readline(_LONGEST_LINE):
            unpacked += len(line)
            if len(line) == _LONGEST_LINE or (packed and is_decompression_bomb(unpacked, path)):
                raise ValueError(f"a line, or in all, more than {unpacked:,} characters")
            if line.strip():
                yield line.rstrip("\n")


def _columns(first: str) -> _Columns:
    """The columns, by the first line: a header, or an image whose label comes first.

    A line is a header if a field is text, or if its numbers count up to more than 255, as pandas
    numbers its columns.
    """
    delimiter = max(",;\t", key=first.count)
    (names,) = csv.reader([first], delimiter=delimiter) if first else ([""],)
    plain = [name.strip().lower() for name in names]
    count = range(len(plain))
    if not (any(map(_is_text, plain[1:])) or _counts_up(plain) or plain[0] in LABELS):
        label = 0 if len(plain) != _PIXELS else None
        return _Columns(delimiter, len(plain), label, [i for i in count if i != label], False)
    label = next((plain.index(name) for name in LABELS if name in plain), None)
    numbered = [i for i in count if plain[i] in _ROW_NUMBERS]
    if label is None and len(plain) - len(numbered) == _PIXELS + 1:
        label = next(i for i in count if i not in numbered)
    pixels = _in_order([i for i in count if i != label and i not in numbered], plain)
    return _Columns(delimiter, len(plain), label, pixels, True)


def _is_text(field: str) -> bool:
    try:
        float(field or 0)
    except ValueError:
        return True
    return False


def _counts_up(fields: list[str]) -> bool:
    numbers = [int(field) for field in fields[-2:] if field.isdecimal()]
    return len(numbers) == 2 and 255 < numbers[1] == numbers[0] + 1


def _in_order(columns: list[int], names: list[str]) -> list[int]:
    """The columns in the order of the numbers in their names: `pixel10` after `pixel9`, `2x1`."""
    found = [_PIXEL.fullmatch(names[column]) for column in columns]
    places = [tuple(map(int, re.findall(r"\d+", match[0]))) for match in found if match]
    if len(set(places)) < len(columns):
        return columns
    return [column for _, column in sorted(zip(places, columns, strict=True))]


def _read_rows(lines: Iterator[str], columns: _Columns) -> tuple[np.ndarray, list[str] | None]:
    parts: list[np.ndarray] = []
    labels: list[str] = []
    first_row = 1
    while rows := list(itertools.islice(lines, _LINES)):
        _require_columns(rows, columns, first_row)
        try:
            parts.append(_pixels(rows, columns))
        except ValueError as error:
            last_row = first_row + len(rows) - 1
            what = _RELATIVE_ROW.sub("", first_line(error))
            raise ValueError(f"in rows {first_row} to {last_row}, {what}") from None
        if columns.label is not None:
            labels += [_field(row, columns) for row in rows]
            _require_labels(labels[first_row - 1 :], first_row)
        first_row += len(rows)
    if not parts:
        raise ValueError("no row")
    images = np.concatenate(parts).reshape(-1, SIDE, SIDE)
    return images, labels if columns.label is not None else None


def _require_columns(rows: list[str], columns: _Columns, first_row: int) -> None:
    for number, row in enumerate(rows, start=first_row):
        count = row.count(columns.delimiter) + 1
        if count != columns.count and '"' not in row:
            raise ValueError(f"in row {number}, {count} columns, not {columns.count}")


def _require_labels(labels: list[str], first_row: int) -> None:
    for number, label in enumerate(labels, start=first_row):
        if label.lower() in ("", "nan"):
            raise ValueError(f"in row {number}, no label")


def _pixels(rows: list[str], columns: _Columns) -> np.ndarray:
    """`(N, 784)` uint8."""

    def parsed(dtype: type) -> np.ndarray:
        return np.loadtxt(
            rows, dtype, comments=None, delimiter=columns.delimiter, usecols=columns.pixels,
            quotechar='"', ndmin=2,
        )  # fmt: skip

    try:
        return parsed(np.uint8)
    except ValueError:
        values = parsed(np.float64)  # some programs write whole numbers as 0.0
    if not (values.min() >= 0 and values.max() <= 255):
        raise ValueError(f"values from {values.min():g} to {values.max():g}")
    if (fractions := values[values != np.round(values)]).size:
        raise ValueError(
            f"fractions such as {fractions[0]:g}; the largest value is {values.max():g}"
        )
    return values.astype(np.uint8)


def _field(row: str, columns: _Columns) -> str:
    """The label of a row; only a row with quotes is parsed in full, which is much slower."""
    assert columns.label is not None
    if '"' in row:
        (fields,) = csv.reader([row], delimiter=columns.delimiter)
        return fields[columns.label].strip()
    if columns.label < len(columns.pixels) / 2:
        return row.split(columns.delimiter, columns.label + 1)[columns.label].strip()
    return row.split(columns.delimiter)[columns.label].strip()
