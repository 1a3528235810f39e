"""The edges of a picture on a page, and which characters are targets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_digitnet.pages.ink import Box, Ink
from keras_digitnet.pictures.padding import padded

# The height of target characters, in pixels of the page; others are read at other scales. Up to
# `LARGE` those outside the range are ignored by the loss; larger ones are background.
LOWEST, HIGHEST = 10.0, 42.0
LARGE = 60.0
_LEGIBLE = 0.35  # the lowest `visibility` of a target character


@dataclass(frozen=True)
class Page:
    """A composed page.

    Attributes:
        image: `(H, W)` uint8.
        boxes: `(N, 4)` float32, left, top, right and bottom of each target
            character, in pixels.
        labels: `(N,)` int64, indices of their classes.
        ignored: `(M, 4)` float32, boxes that the loss ignores.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def framed(
    image: np.ndarray,
    ink: Ink,
    cell: Box | None,
    random: np.random.Generator,
    tight: Box | None = None,
) -> Page:
    """Makes the page, sometimes cropped to a smaller picture and padded as the reader pads it.

    Args:
        image: `(H, W)` uint8.
        ink: The ink on it, with the characters' boxes.
        cell: The borders of a printed cell, if there is one.
        random: Generator of all random choices.
        tight: The box of the ink to which the picture is cropped, if it is.
    """
    height, width = image.shape
    frame = (0, 0, width, height)
    if tight is not None or random.random() < 0.33:
        cut = (
            _cut(ink, cell, height, width, random)
            if tight is None
            else _beside(tight, -0.5, 3, random)
        )
        left, right = (int(np.clip(value, 0, width)) for value in (cut[0], cut[2]))
        top, bottom = (int(np.clip(value, 0, height)) for value in (cut[1], cut[3]))
        if right - left >= 8 and bottom - top >= 8:
            frame = (left, top, right, bottom)
            image = padded(
                image[top:bottom, left:right],
                (top, height - bottom, left, width - right),
                repeated=random.random() < 0.6,
            )
    return page_with_targets(image, ink, frame)


def _beside(box: Box, low: float, high: float, random: np.random.Generator) -> Sequence[float]:
    """The sides of a box, each moved outwards by `low` to `high` pixels."""
    return [
        at + side * random.uniform(low, high) for at, side in zip(box, (-1, -1, 1, 1), strict=True)
    ]


def _cut(
    ink: Ink, cell: Box | None, height: int, width: int, random: np.random.Generator
) -> Sequence[float]:
    """The edges of a picture: at a cell's borders, around characters, or anywhere."""
    if cell is not None and random.random() < 0.7:
        # The borders are inside the picture, along its edge, or just outside.
        return _beside(cell, -2, 9, random)
    if random.random() < 0.5:
        return around(ink, height, width, random)
    return (
        random.uniform(-40, 40),
        random.uniform(-12, 12),
        width + random.uniform(-120, 40),
        height + random.uniform(-12, 12),
    )


def page_with_targets(image: np.ndarray, ink: Ink, frame: tuple[int, int, int, int]) -> Page:
    """Makes complete, legible characters of the right height targets, and ignores doubtful ones.

    A character that paper, light or camera hide must not be a target: it would
    teach the network to find characters in noise.

    Args:
        image: `(H, W)` uint8.
        ink: The ink on it, with the characters' boxes.
        frame: Left, top, right and bottom of the picture on the page, in pixels.
    """
    table = np.array(ink.boxes, np.float32).reshape(-1, 5)
    boxes, labels = table[:, :4], table[:, 4].astype(np.int64)
    clipped = boxes.copy()
    clipped[:, 0::2] = np.clip(boxes[:, 0::2], frame[0], frame[2])
    clipped[:, 1::2] = np.clip(boxes[:, 1::2], frame[1], frame[3])
    sides, whole = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    shown = (sides / np.maximum(whole, 1)).min(axis=1, initial=1)
    tall = whole[:, 1]
    wanted = (shown > 0.75) & (tall >= LOWEST) & (tall <= HIGHEST)
    for index in np.flatnonzero(wanted):
        wanted[index] = visibility(image, ink.layer, clipped[index]) > _LEGIBLE
    doubtful = ~wanted & (shown > 0.3) & (tall < LARGE)
    unclear = np.array(ink.unclear, np.float32).reshape(-1, 4)
    return Page(
        image, clipped[wanted], labels[wanted], np.concatenate([clipped[doubtful], unclear])
    )


def visibility(image: np.ndarray, layer: np.ndarray, box: np.ndarray) -> float:
    """How well a page shows the ink in a box: the absolute correlation, from 0 to 1.

    Args:
        image: `(H, W)` uint8.
        layer: `(H, W)` float32, the ink.
        box: `(4,)`, left, top, right and bottom in pixels.
    """
    left, top, right, bottom = box.astype(int)
    part = np.s_[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2]
    seen, drawn = image[part] - image[part].mean(), layer[part] - layer[part].mean()
    both = math.sqrt(float((seen**2).sum() * (drawn**2).sum()))
    return abs(float((seen * drawn).sum())) / both if both else 0.0


def around(ink: Ink, height: int, width: int, random: np.random.Generator) -> Box:
    """A random box around some neighbouring characters, which it may clip, or anywhere."""
    if not ink.boxes or random.random() < 0.15:
        left, top = random.uniform(-5, 0.6 * width), random.uniform(-5, 0.4 * height)
        return left, top, random.uniform(left + 15, width + 5), random.uniform(top + 15, height + 5)
    boxes = sorted(ink.boxes)
    first = int(random.integers(len(boxes)))
    chosen = np.array(boxes[first : first + int(random.integers(1, 9))])
    low, high = chosen[:, :2].min(axis=0), chosen[:, 2:4].max(axis=0)
    margin = random.uniform(-1, 9, 4)
    return low[0] - margin[0], low[1] - margin[1], high[0] + margin[2], high[1] + margin[3]
