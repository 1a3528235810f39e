"""What a reader's network learns to predict for each cell of a page."""

import numpy as np

from keras_digitnet.config import STRIDE
from keras_digitnet.pages.frame import Page

# The size of a typical digit in pixels; boxes are predicted as logarithms relative to it.
USUAL_WIDTH, USUAL_HEIGHT = 14.0, 20.0
# Channels of a target: heat, whether the loss counts the cell, weight, label, box (4).
_CHANNELS = 8


def targets(page: Page) -> np.ndarray:
    """The training targets of a page: `(h, w, 8)` float32, one row per cell.

    The channels are heat, whether the loss counts the cell, weight, label and
    the box as predicted. Heat is 1 at a character's centre and falls off as a
    Gaussian, narrower for slim characters. Cells near a centre predict that
    character's class and box, with a weight.
    """
    height, width = (-(-side // STRIDE) for side in page.image.shape)
    target = np.zeros((height, width, _CHANNELS), np.float32)
    target[..., 1] = 1
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    for left, top, right, bottom in page.ignored / STRIDE:
        inside_rows = (rows > top - 0.5) & (rows < bottom + 0.5)
        inside_columns = (columns > left - 0.5) & (columns < right + 0.5)
        target[np.ix_(inside_rows, inside_columns, [1])] = 0
    for (left, top, right, bottom), label in zip(page.boxes / STRIDE, page.labels, strict=True):
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
        reach_x, reach_y = 0.17 * w + 0.28, 0.14 * h + 0.28
        row, column = min(int(y), height - 1), min(int(x), width - 1)
        falls = _bell(rows - row - 0.5, reach_y)[:, None] * _bell(columns - column - 0.5, reach_x)
        near = _bell(rows - y, reach_y)[:, None] * _bell(columns - x, reach_x)
        np.maximum(target[..., 0], falls, out=target[..., 0])
        near[row, column] = max(near[row, column], 0.36)
        own = (near > 0.35) & (near > target[..., 2])
        target[own, 2] = near[own]
        target[own, 3] = label
        at_rows, at_columns = np.nonzero(own)
        target[own, 4] = x - columns[at_columns]
        target[own, 5] = y - rows[at_rows]
        target[own, 6:] = np.log([STRIDE * w / USUAL_WIDTH, STRIDE * h / USUAL_HEIGHT])
        target[row, column, 1] = 1
    return target


def _bell(away: np.ndarray, reach: float) -> np.ndarray:
    return np.exp(-0.5 * (away / reach) ** 2)
