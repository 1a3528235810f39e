"""What is EMNIST's own: its images lie on their side, and a file names its classes."""

from pathlib import Path

import numpy as np

from keras_digitnet.errors import DigitNetError


def upright(images: np.ndarray, set_name: str) -> np.ndarray:
    """The images `(N, 28, 28)` as one reads them; other sets' stay as they are."""
    return images.transpose(0, 2, 1) if set_name.lower().startswith("emnist") else images


def class_names(folder: Path, set_name: str) -> dict[int, str] | None:
    """The names in a set's mapping: a label and the codes of its characters, a line a class.

    Raises:
        DigitNetError: The file is something else.
    """
    path = folder / f"{set_name}-mapping.txt".lstrip("-")
    if not path.is_file():
        return None
    try:
        rows = [[int(part) for part in line.split()] for line in path.read_text().splitlines()]
        return {row[0]: chr(row[1]) for row in rows if row}
    except (ValueError, IndexError, OverflowError) as error:
        raise DigitNetError(
            f"{path}: expected a label and a character code a line; received: {error}."
        ) from None
