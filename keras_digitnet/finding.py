"""A trained detector from a picture to its characters: scales, peaks, and one box for each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# What the network sees of a picture: a canvas with this margin, whose sides are multiples of
# the second number, so that its maps halve evenly.
MARGIN = 12
MULTIPLE = 8
# A picture is looked at in steps of this factor at most, so that nearly each character comes
# between `_SMALLEST` and `_LARGEST` pixels high in two of them; it was trained from 10 to 42.
_STEP = 1.5
_SMALLEST, _LARGEST = 11.0, 41.0
_USUAL = 24.0
# Characters of so many pixels of the picture, or a larger share of its longer side, are found.
_LOWEST = 8
_LOWEST_SHARE = 1 / 80
# Of two boxes, the less likely goes where they share so much of their union, or of the smaller.
_OVERLAP = 0.4
_INSIDE = 0.65
# Pixels of canvases that are computed at a time.
_PIXELS = 2_000_000


@dataclass(frozen=True)
class Character:
    """A character that was found.

    Attributes:
        box: Left, top, right and bottom, in pixels of the picture.
        presence: How likely a character is there.
        probabilities: `(C,)` float32, of its class.
    """

    box: tuple[float, float, float, float]
    presence: float
    probabilities: np.ndarray

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


def find_characters(
    grey: np.ndarray,
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    lowest_presence: float,
    lowest_share: float = _LOWEST_SHARE,
) -> list[Character]:
    """The characters of a picture, in no order.

    Args:
        grey: `(H, W)` uint8.
        run: A detector: `(1, h, w, 1)` uint8 to `presence`, `boxes` and
            `probabilities`.
        lowest_presence: What is less likely there is left out.
        lowest_share: The height of the smallest characters, as a share of the
            picture's longer side.
    """
    parts = [_look(grey, scale, run, lowest_presence) for scale in scales(grey.shape, lowest_share)]
    boxes, presence, probabilities = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return [
        Character(tuple(map(float, boxes[index])), float(presence[index]), votes)
        for index, votes in _settled(boxes, presence, probabilities)
    ]


def scales(shape: Sequence[int], lowest_share: float = _LOWEST_SHARE) -> list[float]:
    """What a picture is resized by: from characters that fill it to the smallest, in even steps."""
    fills = _USUAL / min(shape[0], 4 * shape[1])  # a 1 may be four times as high as it is wide
    smallest = max(_LOWEST, lowest_share * max(shape))
    finest = max(_SMALLEST / smallest, fills)
    steps = math.ceil(math.log(finest / fills) / math.log(_STEP))
    return [fills * (finest / fills) ** (step / max(steps, 1)) for step in range(steps + 1)]


def canvas(grey: np.ndarray, scale: float) -> np.ndarray:
    """`(1, h, w, 1)` uint8: a picture resized, in a margin of its edge's median."""
    import cv2

    height, width = (max(4, round(side * scale)) for side in grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey, (width, height), interpolation=how)
    below, beside = (MARGIN + -(side + 2 * MARGIN) % MULTIPLE for side in (height, width))
    edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return cv2.copyMakeBorder(
        small, MARGIN, below, MARGIN, beside, cv2.BORDER_CONSTANT, value=float(np.median(edge))
    )[None, ..., None]


def _look(
    grey: np.ndarray,
    scale: float,
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    lowest_presence: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in the picture's pixels, presence and probabilities of what one scale shows."""
    import cv2

    found = run(canvas(grey, scale))
    presence = found["presence"][0]
    highest = cv2.dilate(presence, np.ones((3, 3), np.uint8))
    peaks = (presence >= highest) & (presence >= lowest_presence)
    boxes = found["boxes"][0][peaks] - MARGIN
    tall = boxes[:, 3] - boxes[:, 1]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (middle > 0).all(axis=1) & (middle < np.array(grey.shape[::-1]) * scale).all(axis=1)
    good = inside & (tall >= _SMALLEST) & (tall <= _LARGEST)
    return boxes[good] / scale, presence[peaks][good], found["probabilities"][0][peaks][good]


def _settled(
    boxes: np.ndarray, presence: np.ndarray, probabilities: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """The best of boxes that are one character, each with the mean of what they say it is."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    open_ = np.ones(len(boxes), bool)
    kept = []
    for index in np.argsort(-presence, kind="stable"):
        if not open_[index]:
            continue
        low = np.maximum(boxes[:, :2], boxes[index, :2])
        high = np.minimum(boxes[:, 2:], boxes[index, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        union = shared / (areas + areas[index] - shared)
        same = open_ & (union > 0.5)
        same[index] = True
        open_ &= (union <= _OVERLAP) & (shared <= _INSIDE * np.minimum(areas, areas[index]))
        open_[index] = False
        votes = np.average(probabilities[same], axis=0, weights=presence[same])
        kept.append((int(index), votes))
    return kept


def in_lines(characters: Sequence[Character]) -> list[list[Character]]:
    """Lines from top to bottom, the characters of each from left to right."""
    lines: list[list[Character]] = []
    for character in sorted(characters, key=lambda c: c.box[0] + c.box[2]):
        shared = [_shared_height(line[-1], character) for line in lines]
        best = max(range(len(lines)), key=shared.__getitem__, default=None)
        # In a line, neighbours stand beside each other for most of the lower one's height.
        if best is not None and shared[best] > 0.3:
            lines[best].append(character)
        else:
            lines.append([character])
    return sorted(lines, key=lambda line: float(np.mean([c.box[1] + c.box[3] for c in line])))


def _shared_height(before: Character, after: Character) -> float:
    """How much of the lower one's height two characters share."""
    shared = min(before.box[3], after.box[3]) - max(before.box[1], after.box[1])
    return shared / min(before.height, after.height)
