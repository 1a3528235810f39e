"""A trained detector from a picture to its characters: scales, peaks, and one box for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.runtimes import Runtime

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
# How likely there a character must be. Of what is so likely somewhat more than half is there;
# lines of validation digits lose a point from 0.5 to 0.7, and cells, whose borders look like ones,
# gain 15. Where one character must be in the picture, a fainter one is still the best answer.
PRESENT = 0.65
FAINT = 0.15
# Of two boxes, the less likely goes where they share so much of their union, or of the smaller.
_OVERLAP = 0.4
_INSIDE = 0.65


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

    def find(
        self, grey: np.ndarray, smallest: float = SMALLEST, lowest: float = PRESENT
    ) -> list[Character]:
        """The characters of a picture, in no order.

        Args:
            grey: `(H, W)` uint8.
            smallest: Height of the smallest characters that are sought, as a
                share of the picture's longer side.
            lowest: Presence of what is still a character.

        Raises:
            DigitNetError: The model fails, or a server does not answer.
        """
        parts = [self._look(grey, scale, lowest) for scale in scales(grey.shape, smallest)]
        arrays = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        boxes, presence, probabilities = arrays
        return [
            Character(_box(boxes[index]), float(presence[index]), votes)
            for index, votes in _settled(boxes, presence, probabilities)
        ]

    def _look(
        self, grey: np.ndarray, scale: float, lowest: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes in the picture's pixels, presence and probabilities of what one scale shows."""
        import cv2

        presence, boxes, probabilities = self._cells(canvas(grey, scale))
        highest = cv2.dilate(presence, np.ones((3, 3), np.uint8))
        peaks = (presence >= highest) & (presence >= lowest)
        boxes = boxes[peaks] - MARGIN
        tall = boxes[:, 3] - boxes[:, 1]
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((middle > 0) & (middle < np.array(grey.shape[::-1]) * scale)).all(axis=1)
        good = inside & (tall >= _SMALLEST) & (tall <= _LARGEST)
        return boxes[good] / scale, presence[peaks][good], probabilities[peaks][good]

    def _cells(self, page: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the runtime answers for one page, if it is an answer."""
        name = self._runtime.name
        try:
            answers = self._runtime.predict_batch(page)
        except DigitNetError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            raise DigitNetError(
                f"{name}: expected it to compute a page; received: {first_line(error)}"
            ) from error
        cells = tuple(-(-side // 4) for side in page.shape[1:3])
        expected = [(1, *cells), (1, *cells, 4), (1, *cells, len(self.classes))]
        received = [answer.shape for answer in answers]
        if received != expected or not all(np.isfinite(answer).all() for answer in answers):
            raise DigitNetError(
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


def _box(sides: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom


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
