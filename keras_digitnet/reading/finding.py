"""Finds the characters of a picture with a trained detector, at several scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_digitnet.config import STRIDE
from keras_digitnet.errors import DigitNetError, ModelError, first_line
from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.pictures.padding import padded

# The network's input is a canvas: the resized picture with this margin. Its sides are multiples of
# MULTIPLE, so that its maps can be halved.
MARGIN = 12
MULTIPLE = 8
# Neighbouring scales differ by this factor at most, so that nearly every character is between
# `_MIN_HEIGHT` and `_MAX_HEIGHT` pixels high at two of them; the training characters have 10 to 42.
_STEP = 1.5
_MIN_HEIGHT, _MAX_HEIGHT = 11.0, 41.0
_USUAL = 24.0
# Height of the smallest characters that are sought: a fraction of the picture's longer side, and
# a number of pixels, whichever is more.
SMALLEST = 1 / 80
_LOWEST = 8
# Hysteresis thresholds for each line: the lowest presence of a character, and of one beside such a
# character. A stroke beside digits is a 1, on its own it may be a border. With 0.85, 0.9, 0.93 and
# 0.95 beside 0.4 no digit is found on 92.3, 94.8, 96.3 and 96.8 % of 400 pages without one, and 95,
# 94, 91 and 89 % of 300 pages with one MNIST digit are read; lines and cheques lose less than half
# a point. With 0.3 or 0.5 instead of 0.4 the tuned cheques lose half a point.
# FAINT is enough in `predict`.
PRESENT = 0.95
BESIDE = 0.4
FAINT = 0.04
# If the likeliest character is at least this fraction of the longer side high, the picture may be a
# tight crop and is read again, padded with plain paper: semeion gains 2 points, optdigits half a
# point.
_REREAD = 0.7
# A picture without a present character is taken for a tight crop of one that is at least this
# fraction of the longer side high: with 0.9, 12 points more of optdigits are read and 16 of
# semeion, and a digit is found on 0.9 % more of the pages without one; with 0.75 on 4 % more. It
# must have the presence _POSSIBLE: with 0.3 instead of FAINT, a digit is found on 2.0 instead of
# 2.7 % of 1,000 pages without one, and 0.2 and 0.4 points of optdigits and semeion are lost.
FILLING = 0.9
_POSSIBLE = 0.3
# Two boxes are of one character if their intersection is this fraction of their union, or of the
# smaller box: with 0.5 instead of 0.4 the tuned cheques gain 0.7 points, with 0.55 instead of 0.65
# as much.
_SAME = 0.5
_INSIDE = 0.55
# Presence is averaged over this many scales, of those at which the character is between these
# heights in pixels of the canvas: noise and borders resemble a character at one scale only. The
# tuned cheques gain 3 points by it, table cells 4, photographed cells 3.
_AVERAGED_SCALES = 2
_SUITABLE = (13.0, 36.0)
# Larger canvases are split into tiles of this side, so that memory does not grow with the picture.
# They overlap by twice `_SURROUNDINGS`, the pixels around a character that the network sees.
_TILE = 1024
_SURROUNDINGS = 96

# Boxes `(P, 4)`, presence `(P,)` and class probabilities `(P, C)` of possible characters.
_Peaks = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Character:
    """A character found in a picture.

    Attributes:
        box: Left, top, right and bottom, in pixels of the picture.
        presence: The probability that there is a character.
        probabilities: `(C,)` float32, of the classes.
    """

    box: tuple[float, float, float, float]
    presence: float
    probabilities: np.ndarray

    @property
    def height(self) -> float:
        """In pixels of the picture."""
        return self.box[3] - self.box[1]


class LoadedModel:
    """A trained model in any runtime, and the names of its classes.

    It may be used by any number of threads at once, in every format, and by a
    process that is forked after loading, except in Keras and TensorFlow, which
    raise an error there. It cannot be pickled or copied: load it by name in
    each worker process.

    Attributes:
        classes: The C names; a label is an index into them. Without names,
            numbers from 0 on.
        named: Whether the model has names.
    """

    def __init__(self, runtime: Runtime, classes: tuple[str, ...] | None = None) -> None:
        self._runtime = runtime
        self.named = classes is not None
        self.classes = classes or tuple(str(label) for label in range(runtime.num_classes))

    def __reduce__(self) -> str:
        raise DigitNetError(
            f"{type(self).__name__}: expected it to stay in the process that loaded it; received: "
            "an attempt at pickling or copying it. Load it in the worker, by name: "
            f"kd.load({self._runtime.name!r})"
        )

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raises DigitNetError unless a data set's classes are the model's own.

        Of a model without names only the number of classes is compared.
        """
        fit = classes == self.classes if self.named else len(classes) == len(self.classes)
        if not fit:
            raise DigitNetError(
                f"classes: expected the model's {len(self.classes)} classes "
                f"({', '.join(self.classes)}); received: {', '.join(classes)}."
            )


class Reader(LoadedModel):
    """A trained detector of characters, in any runtime."""

    def find(
        self, grey: np.ndarray, smallest: float = SMALLEST, filling: float = FILLING
    ) -> list[Character]:
        """Finds the characters of a picture, in no order.

        They are the `present` candidates, else the likeliest that fills the picture, if any.

        Args:
            grey: `(H, W)` uint8.
            smallest: As for `candidates`.
            filling: Height of a character that fills the picture, as a fraction
                of the picture's longer side.

        Raises:
            ModelError: As for `candidates`.
        """
        candidates = self.candidates(grey, smallest)
        return present(candidates) or _likeliest(candidates, filling * max(grey.shape))

    def candidates(self, grey: np.ndarray, smallest: float = SMALLEST) -> list[Character]:
        """Finds possible characters, in no order, with a presence of `FAINT` at one scale or more.

        Args:
            grey: `(H, W)` uint8.
            smallest: Height of the smallest characters that are sought, as a
                fraction of the picture's longer side.

        Raises:
            ModelError: The model fails, or a server does not answer.
        """
        if tallest(grey.shape) < _LOWEST:
            return []
        found = self._found(grey, smallest, as_edge=True)
        likeliest = max(found, key=lambda each: each.presence, default=None)
        sure = likeliest if likeliest and likeliest.presence >= PRESENT else None
        if sure and sure.height < _REREAD * max(grey.shape):
            return found
        # Perhaps a tight crop, in which strokes reach the edge but do not continue beyond it.
        cropped = self._found(grey, smallest, as_edge=False)
        if sure is None:
            return max(found, cropped, key=_max_presence)
        # More characters than before are borders, which end at the picture's edge now.
        return cropped if len(present(cropped)) == len(present(found)) else found

    def _found(self, grey: np.ndarray, smallest: float, as_edge: bool) -> list[Character]:
        """The possible characters; `as_edge` is that of `canvas`."""
        steps = scales(grey.shape, smallest)
        looks = [self._at_scale(canvas(grey, scale, as_edge), scale, grey.shape) for scale in steps]
        boxes, presence, probabilities = _concatenated(looks)
        look = np.repeat(np.arange(len(looks)), [len(peaks[0]) for peaks in looks])
        same, inside = _overlaps(boxes)
        averaged = _averaged_presence(boxes, presence, look, np.array(steps), same)
        return [
            Character(
                _box(boxes[index]),
                float(averaged[index]),
                np.average(probabilities[same[index]], axis=0, weights=presence[same[index]]),
            )
            for index in _suppress_non_maxima(averaged, same | inside)
        ]

    def _at_scale(self, page: np.ndarray, scale: float, shape: Sequence[int]) -> _Peaks:
        """The peaks at one scale, in pixels of the picture, whose shape is `shape`."""
        boxes, presence, probabilities = _concatenated(
            [
                self._peaks(page, rows, columns)
                for rows in _tiles(page.shape[1])
                for columns in _tiles(page.shape[2])
            ]
        )
        boxes = boxes - MARGIN
        tall = boxes[:, 3] - boxes[:, 1]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        within = ((middle > 0) & (middle < np.array(shape[::-1]) * scale)).all(axis=1)
        good = within & (tall >= _MIN_HEIGHT) & (tall <= _MAX_HEIGHT)
        return boxes[good] / scale, presence[good], probabilities[good]

    def _peaks(self, page: np.ndarray, rows: "_Tile", columns: "_Tile") -> _Peaks:
        """The local maxima of presence in a tile, without those that other tiles report."""
        import cv2

        tile = page[:, rows.start : rows.stop, columns.start : columns.stop]
        presence, boxes, probabilities = self._cells(tile)
        peaks = (presence >= cv2.dilate(presence, np.ones((3, 3), np.uint8))) & (presence >= FAINT)
        boxes = boxes[peaks] + np.array([columns.start, rows.start] * 2, np.float32)
        column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
        own = (row >= rows.own) & (row < rows.next) & (column >= columns.own)
        own &= column < columns.next
        return boxes[own], presence[peaks][own], probabilities[peaks][own]

    def _cells(self, page: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The runtime's presence, boxes and probabilities for one page, validated."""
        name = self._runtime.name
        try:
            answers = self._runtime.predict_batch(page)
        except DigitNetError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            raise ModelError(
                f"{name}: expected it to compute a page; received: {first_line(error)}"
            ) from error
        cells = tuple(-(-side // STRIDE) for side in page.shape[1:3])
        expected = [(1, *cells), (1, *cells, 4), (1, *cells, len(self.classes))]
        received = [answer.shape for answer in answers]
        if received != expected or not all(np.isfinite(answer).all() for answer in answers):
            raise ModelError(
                f"{name}: expected finite presence, boxes and probabilities of shapes {expected}; "
                f"received: {received}. Train or fetch the model again."
            )
        presence, boxes, probabilities = answers
        return presence[0], boxes[0], probabilities[0]


def tallest(shape: Sequence[int]) -> int:
    """The height in pixels of the tallest character that a picture may show.

    A 1 may be four times as high as wide.
    """
    return min(shape[0], 4 * shape[1])


def scales(shape: Sequence[int], smallest: float = SMALLEST) -> list[float]:
    """The scales at which to search: from characters that fill the picture to the smallest."""
    # A picture that is too short for any character is not enlarged.
    fills = _USUAL / max(tallest(shape), _LOWEST)
    finest = max(_MIN_HEIGHT / max(_LOWEST, smallest * max(shape)), fills)
    steps = math.ceil(math.log(finest / fills) / math.log(_STEP))
    return [fills * (finest / fills) ** (step / max(steps, 1)) for step in range(steps + 1)]


def canvas(grey: np.ndarray, scale: float, as_edge: bool) -> np.ndarray:
    """`(1, h, w, 1)` uint8: the resized picture with a margin.

    Args:
        grey: `(H, W)` uint8.
        scale: Pixels of the canvas per pixel of the picture.
        as_edge: Whether the margin repeats the picture's edge, as in `padded`.
    """
    import cv2

    height, width = (max(4, round(side * scale)) for side in grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey, (width, height), interpolation=how)
    below, beside = (MARGIN + -(side + 2 * MARGIN) % MULTIPLE for side in (height, width))
    return padded(small, (MARGIN, below, MARGIN, beside), repeated=as_edge)[None, ..., None]


@dataclass(frozen=True)
class _Tile:
    """A tile along one side of a canvas: its ends, and the part whose peaks it reports."""

    start: int
    stop: int
    own: int
    next: int


def _tiles(side: int) -> list[_Tile]:
    """Overlapping tiles of at most `_TILE` pixels, each of which reports its middle."""
    if side <= _TILE:
        return [_Tile(0, side, 0, side)]
    step = _TILE - 2 * _SURROUNDINGS
    return [
        _Tile(
            start,
            min(start + _TILE, side),
            start + _SURROUNDINGS if start else 0,
            start + step + _SURROUNDINGS if start + _TILE < side else side,
        )
        for start in range(0, side - 2 * _SURROUNDINGS, step)
    ]


def _concatenated(peaks: Sequence[_Peaks]) -> _Peaks:
    boxes, presence, probabilities = (np.concatenate(arrays) for arrays in zip(*peaks, strict=True))
    return boxes, presence, probabilities


def _max_presence(found: Sequence[Character]) -> float:
    return max((character.presence for character in found), default=0.0)


def _box(sides: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom


def _overlaps(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays `(P, P)` bool: which boxes are the same, and which contain one another."""
    same, inside = np.zeros((2, len(boxes), len(boxes)), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index, box in enumerate(boxes):
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        same[index] = shared > _SAME * (areas + areas[index] - shared)
        inside[index] = shared > _INSIDE * np.minimum(areas, areas[index])
    return same, inside


def _averaged_presence(
    boxes: np.ndarray, presence: np.ndarray, look: np.ndarray, scales: np.ndarray, same: np.ndarray
) -> np.ndarray:
    """`(P,)` presence: the mean of the highest, over the scales that suit each box's height."""
    height = (boxes[:, 3] - boxes[:, 1])[:, None] * scales
    shows = (height >= _SUITABLE[0]) & (height <= _SUITABLE[1])
    shows |= look[:, None] == np.arange(len(scales))
    says = np.stack(
        [(same * (look == each) * presence).max(axis=1, initial=0) for each in range(len(scales))],
        axis=1,
    )
    surest = -np.sort(-np.where(shows, says, -1.0), axis=1)[:, :_AVERAGED_SCALES]
    return np.where(surest >= 0, surest, 0).sum(axis=1) / (surest >= 0).sum(axis=1)


def _suppress_non_maxima(presence: np.ndarray, overlaps: np.ndarray) -> list[int]:
    """The index of the likeliest box of each character, in descending order of presence."""
    free = np.ones(len(presence), bool)
    kept = []
    for index in np.argsort(-presence, kind="stable"):
        if free[index]:
            kept.append(int(index))
            free &= ~overlaps[index]
    return kept


def present(candidates: Sequence[Character], lowest: float | None = None) -> list[Character]:
    """The characters whose presence is at least `BESIDE`, in lines with a surer one.

    Args:
        candidates: Possible characters.
        lowest: The lowest presence of the surest character of a line; `PRESENT` by default.
    """
    lines = in_lines([each for each in candidates if each.presence >= BESIDE])
    surest = PRESENT if lowest is None else lowest
    return [each for line in lines if _max_presence(line) >= surest for each in line]


def _likeliest(candidates: Sequence[Character], height: float) -> list[Character]:
    """The likeliest character of at least this height in pixels, if it may be one."""
    tall = [each for each in candidates if each.height >= height and each.presence >= _POSSIBLE]
    return sorted(tall, key=lambda each: -each.presence)[:1]


def in_lines(characters: Sequence[Character]) -> list[list[Character]]:
    """Groups characters into lines from top to bottom, each from left to right."""
    lines: list[list[Character]] = []
    for character in sorted(characters, key=lambda c: c.box[0] + c.box[2]):
        shared = [_shared_height(line[-1], character) for line in lines]
        best = max(range(len(lines)), key=shared.__getitem__, default=None)
        # In a line, neighbours overlap vertically.
        if best is not None and shared[best] > 0.3:
            lines[best].append(character)
        else:
            lines.append([character])
    return sorted(lines, key=lambda line: float(np.mean([c.box[1] + c.box[3] for c in line])))


def _shared_height(before: Character, after: Character) -> float:
    """The vertical overlap of two characters, as a fraction of the smaller height."""
    shared = min(before.box[3], after.box[3]) - max(before.box[1], after.box[1])
    return shared / min(before.height, after.height)
