"""EMNIST's peculiarities: its images are transposed, and a file maps its classes to names."""

from pathlib import Path

import numpy as np

from keras_digitnet.errors import DigitNetError


def upright(images: np.ndarray, set_name: str) -> np.ndarray:
    """The images `(N, 28, 28)`, transposed if the set is one of EMNIST's."""
    return images.transpose(0, 2, 1) if set_name.lower().startswith("emnist") else images


def class_names(folder: Path, set_name: str) -> dict[int, str] | None:
    """The class names by label in a set's mapping file, if there is one.

    Each of its lines has a label and the codes of its characters.

    Raises:
        DigitNetError: The file has another format.
    """
    path = folder / f"{set_name}-mapping.txt".lstrip("-")
    if not path.is_file():
        return None
    try:
        rows = [[int(part) for part in line.split()] for line in path.read_text().splitlines()]
        return {row[0]: chr(row[1]) for row in rows if row}
    except (ValueError, IndexError, OverflowError) as error:
        raise DigitNetError(
            f"{path}: expected a label and a character code on each line; received: {error}."
        ) from None
