"""A trained detector from a picture to its characters: scales, peaks, and one box for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_digitnet.errors import DigitNetError, ModelError, first_line
from keras_digitnet.formats.runtime import Runtime

# What the network sees of a picture: a canvas with this margin, whose sides are multiples of
# the second number, so that its maps halve evenly.
MARGIN = 12
MULTIPLE = 8
# A picture is looked at in steps of this factor at most, so that nearly each character comes
# between `_SMALLEST` and `_LARGEST` pixels high in two of them; it was trained from 10 to 42.
_STEP = 1.5
_SMALLEST, _LARGEST = 11.0, 41.0
_USUAL = 24.0
# Characters so high are found: a share of the picture's longer side, but no fewer pixels of it.
SMALLEST = 1 / 80
_LOWEST = 8
# How likely a character must be alone, and how likely beside such a one in its line: a stroke next
# to digits is a 1, alone it may be a border. With 0.8 and 0.4, 93 % of the pages without a digit
# show none, with 0.5 for both 75 %; lines of digits lose 1.5 points by it, cheques gain half a
# point. Where one digit must be in the picture, a fainter one is still the best answer.
PRESENT = 0.8
BESIDE = 0.4
FAINT = 0.04
# Two boxes are one character where they share so much of their union, or of the smaller.
_SAME = 0.4
_INSIDE = 0.65
# How many looks vouch for a character, of those that show it between these heights, in pixels of
# the canvas: noise and borders look like one at one scale only. With it the cheques that may be
# looked at gain 3 points, table cells 4, photographed cells 3.
_WITNESSES = 2
_SURELY = (13.0, 36.0)
# So many pixels of a canvas's side are looked at together, and so many again at each end: what the
# network sees of a character's surroundings. So memory does not grow with the picture.
_TILE = 1024
_SURROUNDINGS = 96

# Boxes `(P, 4)`, presence `(P,)` and probabilities `(P, C)` of what may be characters.
_Peaks = tuple[np.ndarray, np.ndarray, np.ndarray]


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


class Named:
    """A trained model, wherever it runs, and the names of its classes.

    Any number of threads may use it at once, in every format. So may a process
    that is forked after loading, unless Keras or TensorFlow runs it, which says
    so. It cannot be pickled or copied: load it by name in each worker process.

    Attributes:
        classes: The C names; a label is an index into them. Numbers from 0 on
            where the model came without names.
        named: Whether it came with names.
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

        A model that came without names is only asked for their number.
        """
        fit = classes == self.classes if self.named else len(classes) == len(self.classes)
        if not fit:
            raise DigitNetError(
                f"classes: expected the model's {len(self.classes)} classes "
                f"({', '.join(self.classes)}); received: {', '.join(classes)}."
            )


class Reader(Named):
    """A trained model that finds the characters of a picture, wherever it runs."""

    def find(self, grey: np.ndarray, smallest: float = SMALLEST) -> list[Character]:
        """The characters of a picture, in no order: the `present` ones of its candidates.

        Args:
            grey: `(H, W)` uint8.
            smallest: As for `candidates`.

        Raises:
            ModelError: As for `candidates`.
        """
        return present(self.candidates(grey, smallest))

    def candidates(self, grey: np.ndarray, smallest: float = SMALLEST) -> list[Character]:
        """What may be characters, in no order, down to the `FAINT`.

        Args:
            grey: `(H, W)` uint8.
            smallest: Height of the smallest characters that are sought, as a
                share of the picture's longer side.

        Raises:
            ModelError: The model fails, or a server does not answer.
        """
        if min(grey.shape[0], 4 * grey.shape[1]) < _LOWEST:
            return []  # too small for any character that is sought
        found = self._found(grey, smallest, as_edge=True)
        if not any(character.presence >= PRESENT for character in found):
            # Cut close around a digit, perhaps, whose strokes must not go on beyond the picture.
            found = max(found, self._found(grey, smallest, as_edge=False), key=_likeliest)
        return found

    def _found(self, grey: np.ndarray, smallest: float, as_edge: bool) -> list[Character]:
        """What may be characters; `as_edge` as in `canvas`."""
        steps = scales(grey.shape, smallest)
        looks = [self._look(canvas(grey, scale, as_edge), scale, grey.shape) for scale in steps]
        boxes, presence, probabilities = _joined(looks)
        look = np.repeat(np.arange(len(looks)), [len(peaks[0]) for peaks in looks])
        same, inside = _overlaps(boxes)
        vouched = _vouched(boxes, presence, look, np.array(steps), same)
        return [
            Character(
                _box(boxes[index]),
                float(vouched[index]),
                np.average(probabilities[same[index]], axis=0, weights=presence[same[index]]),
            )
            for index in _settled(vouched, same | inside)
        ]

    def _look(self, page: np.ndarray, scale: float, shape: Sequence[int]) -> _Peaks:
        """What one scale shows of a picture of a shape, in the picture's pixels."""
        boxes, presence, probabilities = _joined(
            [
                self._peaks(page, rows, columns)
                for rows in _spans(page.shape[1])
                for columns in _spans(page.shape[2])
            ]
        )
        boxes = boxes - MARGIN
        tall = boxes[:, 3] - boxes[:, 1]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        within = ((middle > 0) & (middle < np.array(shape[::-1]) * scale)).all(axis=1)
        good = within & (tall >= _SMALLEST) & (tall <= _LARGEST)
        return boxes[good] / scale, presence[good], probabilities[good]

    def _peaks(self, page: np.ndarray, rows: "_Span", columns: "_Span") -> _Peaks:
        """What no neighbouring cell of a tile exceeds, where the tile speaks for the page."""
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
        """What the runtime answers for one page, if it is an answer."""
        name = self._runtime.name
        try:
            answers = self._runtime.predict_batch(page)
        except DigitNetError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            raise ModelError(
                f"{name}: expected it to compute a page; received: {first_line(error)}"
            ) from error
        cells = tuple(-(-side // 4) for side in page.shape[1:3])
        expected = [(1, *cells), (1, *cells, 4), (1, *cells, len(self.classes))]
        received = [answer.shape for answer in answers]
        if received != expected or not all(np.isfinite(answer).all() for answer in answers):
            raise ModelError(
                f"{name}: expected finite presence, boxes and probabilities of shapes {expected}; "
                f"received: {received}. Train or fetch the model again."
            )
        presence, boxes, probabilities = answers
        return presence[0], boxes[0], probabilities[0]


def scales(shape: Sequence[int], smallest: float = SMALLEST) -> list[float]:
    """What a picture is resized by: from characters that fill it to the smallest, in even steps."""
    # A 1 may be four times as high as it is wide; what is too low to be found is not enlarged.
    fills = _USUAL / max(min(shape[0], 4 * shape[1]), _LOWEST)
    finest = max(_SMALLEST / max(_LOWEST, smallest * max(shape)), fills)
    steps = math.ceil(math.log(finest / fills) / math.log(_STEP))
    return [fills * (finest / fills) ** (step / max(steps, 1)) for step in range(steps + 1)]


def canvas(grey: np.ndarray, scale: float, as_edge: bool) -> np.ndarray:
    """`(1, h, w, 1)` uint8: a picture resized, in a margin.

    Its edge's pixels go on there with `as_edge`, so that the border of a cell
    is a line that goes on; else the margin has the edge's median.
    """
    import cv2

    height, width = (max(4, round(side * scale)) for side in grey.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey, (width, height), interpolation=how)
    below, beside = (MARGIN + -(side + 2 * MARGIN) % MULTIPLE for side in (height, width))
    margins = (MARGIN, below, MARGIN, beside)
    if as_edge:
        return cv2.copyMakeBorder(small, *margins, cv2.BORDER_REPLICATE)[None, ..., None]
    edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return cv2.copyMakeBorder(small, *margins, cv2.BORDER_CONSTANT, value=float(np.median(edge)))[
        None, ..., None
    ]


@dataclass(frozen=True)
class _Span:
    """A part of a canvas's side: where it starts and stops, and from where to where it speaks."""

    start: int
    stop: int
    own: int
    next: int


def _spans(side: int) -> list[_Span]:
    """Parts of `_TILE` pixels at most that overlap, each of which speaks for its middle."""
    if side <= _TILE:
        return [_Span(0, side, 0, side)]
    step = _TILE - 2 * _SURROUNDINGS
    return [
        _Span(
            start,
            min(start + _TILE, side),
            start + _SURROUNDINGS if start else 0,
            start + step + _SURROUNDINGS if start + _TILE < side else side,
        )
        for start in range(0, side - 2 * _SURROUNDINGS, step)
    ]


def _joined(peaks: Sequence[_Peaks]) -> _Peaks:
    boxes, presence, probabilities = (np.concatenate(arrays) for arrays in zip(*peaks, strict=True))
    return boxes, presence, probabilities


def _likeliest(found: Sequence[Character]) -> float:
    return max((character.presence for character in found), default=0.0)


def _box(sides: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom


def _overlaps(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(P, P)` bool: which boxes are the same, and which lie in one another."""
    same, inside = np.zeros((2, len(boxes), len(boxes)), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index, box in enumerate(boxes):
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        same[index] = shared > _SAME * (areas + areas[index] - shared)
        inside[index] = shared > _INSIDE * np.minimum(areas, areas[index])
    return same, inside


def _vouched(
    boxes: np.ndarray, presence: np.ndarray, look: np.ndarray, scales: np.ndarray, same: np.ndarray
) -> np.ndarray:
    """`(P,)` presence: the mean of what the surest looks say, of those that show the box well."""
    height = (boxes[:, 3] - boxes[:, 1])[:, None] * scales
    shows = (height >= _SURELY[0]) & (height <= _SURELY[1])
    shows |= look[:, None] == np.arange(len(scales))
    says = np.stack(
        [(same * (look == each) * presence).max(axis=1, initial=0) for each in range(len(scales))],
        axis=1,
    )
    surest = -np.sort(-np.where(shows, says, -1.0), axis=1)[:, :_WITNESSES]
    return np.where(surest >= 0, surest, 0).sum(axis=1) / (surest >= 0).sum(axis=1)


def _settled(presence: np.ndarray, one: np.ndarray) -> list[int]:
    """The indices of the likeliest of the boxes that are one character, by falling presence."""
    free = np.ones(len(presence), bool)
    kept = []
    for index in np.argsort(-presence, kind="stable"):
        if free[index]:
            kept.append(int(index))
            free &= ~one[index]
    return kept


def present(candidates: Sequence[Character]) -> list[Character]:
    """Those that stand in a line of which one is `PRESENT`, and are likely enough `BESIDE` it."""
    lines = in_lines([each for each in candidates if each.presence >= BESIDE])
    return [each for line in lines if _likeliest(line) >= PRESENT for each in line]


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
