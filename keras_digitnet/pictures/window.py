"""The square window around a character, with its surroundings, as the verifier sees it."""

from collections.abc import Sequence

import numpy as np

from keras_digitnet.config import SIDE

# The window's side in longer sides of the box: a character is about as large in it as in MNIST's
# form, and parts of its neighbours are seen.
_WIDE = 1.5
# Grey values of a window have this mean and about this deviation.
_MEAN, _DEVIATION = 128, 40
_NOISE = 4  # grey values; keeps blank paper from being amplified


def window(grey: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Cuts the surroundings of a box out of a picture, at a fixed size and contrast.

    Beyond the picture its edge pixels are repeated. Nothing is separated from the
    paper, and ink may be dark or light.

    Args:
        grey: `(H, W)` uint8.
        box: Left, top, right and bottom, in pixels.

    Returns:
        `(28, 28)` uint8.
    """
    import cv2

    left, top, right, bottom = box
    side = _WIDE * max(right - left, bottom - top, 2.0)
    column, row = (round((low + high - side) / 2) for low, high in ((left, right), (top, bottom)))
    pixels = max(round(side), 2)
    height, width = grey.shape
    # At least one row and column of the picture, from which the rest is repeated.
    first_row, first_column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    last_row = max(min(row + pixels, height), first_row + 1)
    last_column = max(min(column + pixels, width), first_column + 1)
    inside = grey[first_row:last_row, first_column:last_column]
    margins = (
        max(first_row - row, 0),
        max(row + pixels - last_row, 0),
        max(first_column - column, 0),
        max(column + pixels - last_column, 0),
    )
    square = cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE)
    how = cv2.INTER_AREA if pixels > SIDE else cv2.INTER_LINEAR
    values = cv2.resize(square, (SIDE, SIDE), interpolation=how).astype(np.float32)
    contrast = _DEVIATION / (values.std() + _NOISE)
    return np.clip(np.rint(_MEAN + contrast * (values - values.mean())), 0, 255).astype(np.uint8)
