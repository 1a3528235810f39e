"""Where a picture ends, and which of the characters on a page can be asked for."""

import math
from dataclasses import dataclass

import numpy as np

from keras_digitnet.pages.ink import Ink, Sides

# Characters that are sought are so high, in pixels of the page; lower and higher ones are seen at
# other scales. In between nothing is asked.
LOWEST, HIGHEST = 10.0, 42.0
LARGE = 60.0  # from here on no part may be taken for a character
_LEGIBLE = 0.35  # how well a page must show a character that is sought; 1 is fully


@dataclass(frozen=True)
class Page:
    """A composed page.

    Attributes:
        image: `(H, W)` uint8.
        boxes: `(N, 4)` float32, left, top, right and bottom of each character.
        labels: `(N,)` int64.
        ignored: `(M, 4)` float32, boxes where nothing is asked.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


def framed(image: np.ndarray, ink: Ink, cell: Sides | None, random: np.random.Generator) -> Page:
    """The page, with what lies beyond a picture's edges padded as the reader pads it."""
    height, width = image.shape
    frame = (0, 0, width, height)
    if random.random() < 0.33:
        left, top, right, bottom = _cut(ink, cell, height, width, random)
        if right - left >= 8 and bottom - top >= 8:
            frame = (left, top, right, bottom)
            image = padded(
                image[top:bottom, left:right],
                (top, height - bottom, left, width - right),
                repeated=random.random() < 0.6,
            )
    return seen_page(image, ink, frame)


def _cut(
    ink: Ink, cell: Sides | None, height: int, width: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where a picture ends: at a cell's borders, about characters, or anywhere."""
    if cell is not None and random.random() < 0.7:
        # The borders are in the picture, along its edge, or just out of it.
        cut = [
            at + side * random.uniform(-2, 9) for at, side in zip(cell, (-1, -1, 1, 1), strict=True)
        ]
    elif random.random() < 0.5:
        cut = list(around(ink, height, width, random))
    else:
        cut = [
            random.uniform(-40, 40),
            random.uniform(-12, 12),
            width + random.uniform(-120, 40),
            height + random.uniform(-12, 12),
        ]
    left, right = (int(np.clip(value, 0, width)) for value in (cut[0], cut[2]))
    top, bottom = (int(np.clip(value, 0, height)) for value in (cut[1], cut[3]))
    return left, top, right, bottom


def padded(image: np.ndarray, margins: tuple[int, int, int, int], repeated: bool) -> np.ndarray:
    """A picture with more around it.

    Args:
        image: `(H, W)` uint8.
        margins: Pixels above, below, left and right.
        repeated: Whether the edge's pixels go on; else all is the edge's median.
    """
    import cv2

    if repeated:
        return cv2.copyMakeBorder(image, *margins, cv2.BORDER_REPLICATE)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=float(np.median(edge)))


def seen_page(image: np.ndarray, ink: Ink, frame: tuple[int, int, int, int]) -> Page:
    """Sorts the characters: whole ones that one can see, of a size that is sought; doubtful ones.

    What the camera, the paper or the light has hidden must not be asked for:
    it would teach the network to see characters in noise.
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
        wanted[index] = likeness(image, ink.layer, clipped[index]) > _LEGIBLE
    doubtful = ~wanted & (shown > 0.3) & (tall < LARGE)
    return Page(image, clipped[wanted], labels[wanted], clipped[doubtful])


def likeness(image: np.ndarray, layer: np.ndarray, box: np.ndarray) -> float:
    """How well the page shows the ink in a box: the correlation of the two, from 0 to 1."""
    left, top, right, bottom = box.astype(int)
    part = np.s_[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2]
    seen, drawn = image[part] - image[part].mean(), layer[part] - layer[part].mean()
    both = math.sqrt(float((seen**2).sum() * (drawn**2).sum()))
    return abs(float((seen * drawn).sum())) / both if both else 0.0


def around(ink: Ink, height: int, width: int, random: np.random.Generator) -> Sides:
    """A box about some neighbouring characters, or anywhere; often close, at times across them."""
    if not ink.boxes or random.random() < 0.15:
        left, top = random.uniform(-5, 0.6 * width), random.uniform(-5, 0.4 * height)
        return left, top, random.uniform(left + 15, width + 5), random.uniform(top + 15, height + 5)
    boxes = sorted(ink.boxes)
    first = int(random.integers(len(boxes)))
    chosen = np.array(boxes[first : first + int(random.integers(1, 9))])
    low, high = chosen[:, :2].min(axis=0), chosen[:, 2:4].max(axis=0)
    margin = random.uniform(-1, 9, 4)
    return low[0] - margin[0], low[1] - margin[1], high[0] + margin[2], high[1] + margin[3]
