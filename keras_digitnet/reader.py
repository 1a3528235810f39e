"""Numbers in a picture: where their digits are, and what they say.

Touching digits are cut, and broken ones joined, where the model is surest of what comes out
(Lecun et al., "Gradient-based learning applied to document recognition", 1998, section V).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.artifacts import written_whole
from keras_digitnet.errors import DigitNetError
from keras_digitnet.images import described, name_of, open_upright, read_grey
from keras_digitnet.normalization import (
    cropped,
    darkness,
    draw_digit,
    find_rulings,
    outlined,
    shrunk,
    stroke_width,
)

if TYPE_CHECKING:
    from PIL import Image

    from keras_digitnet.images import Picture
    from keras_digitnet.inference import Classifier

# A page of digits is read from so many pixels a side at most.
_LARGEST = 2048
# In heights of a usual digit: what is lower is a dot, a dash, or a part of the digit that it lies
# over or under ...
_LOWEST = 0.45
# ... the bar of a 5 floats so far above it or its line at most ...
_FLOATING = 0.35
# ... no digit is wider, whatever it is written with ...
_WIDEST = 1.6
# ... and cuts through touching digits are so far apart at least.
_BETWEEN_CUTS = 0.12
# A digit falls into so many pieces at most: a wide one is cut in eight places, and whole it must be
# among the candidates.
_MOST_PIECES = 10
# Width to height of upright digits, with its standard deviation: ones, which may be as slim as
# they like, and the others. Digits in a row are a little narrower than MNIST's.
_ASPECT_OF_ONE = (0.25, 0.3)
_ASPECT = (0.65, 0.25)
_DEAREST_ASPECT = 7.0
# Others than MNIST's writers draw a 1 with a flag, a 9 in one loop like a P, a 2 with a loop at its
# top, and a bar through a 7. The model takes these for what comes first, but never for as clear a
# one: what comes second is so much likelier there than it thinks.
_HABITS = {("7", "1"): 10.0, ("8", "9"): 20.0, ("9", "2"): 20.0, ("4", "7"): 5.0}
# Costs of a reading. A cut costs by the strokes that it goes through, in heights of a digit; none
# goes through more than so many.
_COST_OF_CUT = 6.5
_MOST_HELD = 1.25
_COST_OF_LOW = 5.0
_COST_OF_DIRT = 11.0
# All of a digit's ink off its largest stroke; where cuts go through a 2, its ends come apart.
_COST_OF_STRAY = 8.0
# Each nat that the log odds of a digit's class fall short of a clear digit's. The model is nearly
# as sure of halves and of pairs as of digits, but "nearly" is seen in the odds: 0.999 is little.
_COST_OF_DOUBT = 0.3
_SURE = 10.0


@dataclass(frozen=True)
class Digit:
    """One digit of a reading.

    Attributes:
        label: The name of the most probable class, or `?` where it is in doubt.
        confidence: The probability of that class.
        alternatives: The next most probable classes and their probabilities.
        box: Left, top, width and height in pixels of the upright picture.
        image: `(28, 28)` uint8, what the model saw.
    """

    label: str
    confidence: float
    alternatives: tuple[tuple[str, float], ...]
    box: tuple[int, int, int, int]
    image: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What a picture says.

    Attributes:
        text: The digits, a line of text a line, in reading order.
        confidence: The probability that all of them are right, if each is on its own.
        digits: Each digit, in the order of the text.
    """

    text: str
    confidence: float
    digits: tuple[Digit, ...]


@dataclass(frozen=True, eq=False)
class _Piece:
    """Connected ink: its mask and where that lies, and its span where strokes stand upright.

    Attributes:
        cut: What it costs to have cut it from the piece before; 0 if it was
            never a part of it.
    """

    mask: np.ndarray
    left: int
    top: int
    start: float = 0
    end: float = 0
    cut: float = 0

    @property
    def height(self) -> int:
        return self.mask.shape[0]

    @property
    def right(self) -> int:
        return self.left + self.mask.shape[1]

    @property
    def bottom(self) -> int:
        return self.top + self.mask.shape[0]


@dataclass
class _Candidate:
    """Neighbouring pieces that may be one digit; `cost` is that of their shape."""

    first: int
    after: int
    box: tuple[int, int, int, int]
    image: np.ndarray
    cost: float
    aspect: float
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros(0))


def read(
    picture: "Picture", classifier: "Classifier | None" = None, min_confidence: float = 0.0
) -> Reading:
    """The digits in a picture: a number, or lines of them.

    Args:
        picture: As for `normalize_digit`.
        classifier: What reads each digit; else the shipped `base`.
        min_confidence: A digit that is less probable becomes `?`.

    Raises:
        DigitNetError: It is no picture, or there is no ink in it.
    """
    if classifier is None:
        from keras_digitnet.inference import load

        classifier = load("base")
    grey = read_grey(picture)
    working = shrunk(grey, _LARGEST)
    ink, pieces_of_lines = _ink_and_lines(working)
    lines = [_read_line(ink, pieces, classifier) for pieces in pieces_of_lines]
    lines = [line for line in lines if line]
    if not lines:
        raise DigitNetError(
            f"{name_of(picture)}: no ink found: expected digits that stand out from their paper; "
            f"received: {described(grey)} without one."
        )
    scale = grey.shape[0] / working.shape[0], grey.shape[1] / working.shape[1]
    found = [
        [_digit(each, classifier.classes, scale, min_confidence) for each in line] for line in lines
    ]
    digits = tuple(itertools.chain(*found))
    text = "\n".join("".join(digit.label for digit in line) for line in found)
    return Reading(text, math.prod(digit.confidence for digit in digits), digits)


@dataclass(frozen=True)
class FileReading:
    """What a picture of many says.

    Attributes:
        path: The file, as it was named.
        reading: What it says; none where it could not be read.
        error: Why not.
    """

    path: str
    reading: Reading | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The text and every digit but its picture."""
        assert self.reading is not None
        digits = [
            {
                "label": digit.label,
                "confidence": digit.confidence,
                "alternatives": dict(digit.alternatives),
                "box": digit.box,
            }
            for digit in self.reading.digits
        ]
        return {
            "file": self.path,
            "text": self.reading.text,
            "confidence": self.reading.confidence,
            "digits": digits,
        }

    def to_row(self) -> tuple[str, str, str]:
        """Text, confidence, file."""
        assert self.reading is not None
        return self.reading.text, f"{self.reading.confidence:.6f}", self.path

    def to_line(self) -> str:
        """The text in one line."""
        assert self.reading is not None
        return " ".join(self.reading.text.split("\n"))


def read_files(
    classifier: "Classifier",
    paths: Iterable[str],
    min_confidence: float = 0.0,
    annotated_dir: Path | None = None,
) -> Iterator[FileReading]:
    """Reads pictures in their order; one that cannot be read gets an error in its place.

    With `annotated_dir`, each is also drawn there with its boxes, under its own
    name with `.png`; a name that comes twice is numbered.
    """
    names: Counter[str] = Counter()
    for path in paths:
        try:
            reading = read(path, classifier, min_confidence)
        except DigitNetError as error:
            yield FileReading(path, error=str(error))
            continue
        if annotated_dir:
            name = Path(path).stem
            names[name] += 1
            number = f"-{names[name]}" if names[name] > 1 else ""
            with written_whole(annotated_dir / f"{name}{number}.png") as temporary:
                annotate(path, reading).save(temporary, "PNG")
        yield FileReading(path, reading)


def _digit(
    candidate: "_Candidate",
    classes: tuple[str, ...],
    scale: tuple[float, float],
    min_confidence: float,
) -> Digit:
    order = np.argsort(-candidate.probabilities)
    ranked = [(classes[index], float(candidate.probabilities[index])) for index in order]
    label, confidence = ranked[0]
    left, top, right, bottom = candidate.box
    rows, columns = scale
    box = (left * columns, top * rows, (right - left) * columns, (bottom - top) * rows)
    return Digit(
        label if confidence >= min_confidence else "?",
        confidence,
        tuple(ranked[1:3]),
        (round(box[0]), round(box[1]), round(box[2]), round(box[3])),
        candidate.image,
    )


def _ink_and_lines(grey: np.ndarray) -> tuple[np.ndarray, list[list[_Piece]]]:
    """The ink as `outlined` gives it, and the pieces of each line of text, from top to bottom.

    Where only the picture's edge bounds all of a line, it is no ink but a corner of a shadow.
    That may be darker than faint digits, so these are looked for again without it; where nothing
    else is found, digits fill the picture.
    """
    import cv2

    whole = outlined(darkness(grey))
    lines = _lines(_pieces(whole))
    shadows = [piece for line in lines if _is_shadow(line, grey.shape) for piece in line]
    mask = _mask_of(shadows, (0, 0, grey.shape[1], grey.shape[0]))
    near = cv2.dilate(mask, np.ones((7, 7), np.uint8))
    inside = outlined(np.where(near, 0, darkness(grey, beyond=True)))
    lines_inside = _lines(_pieces(inside))
    tallest = max((line[0].height for line in lines), default=0)
    if any(line[0].height > 0.2 * tallest for line in lines_inside):
        return inside, lines_inside
    return whole, lines


def _is_shadow(line: list[_Piece], shape: tuple[int, ...]) -> bool:
    """Whether each of its pieces lies along an edge of the picture with much of a side."""
    return all(
        (piece.top == 0 and piece.mask[0].mean() > 0.4)
        or (piece.bottom == shape[0] and piece.mask[-1].mean() > 0.4)
        or (piece.left == 0 and piece.mask[:, 0].mean() > 0.4)
        or (piece.right == shape[1] and piece.mask[:, -1].mean() > 0.4)
        for piece in line
    )


def _pieces(ink: np.ndarray) -> list[_Piece]:
    """The connected ink that may be a digit, several, or a part of one."""
    import cv2

    mask = (ink > 0.5).astype(np.uint8)
    height = _usual_height(mask & ~find_rulings(mask)) or _usual_height(mask)
    # A row of zeros is as straight as a ruling, but not as long; a one in a narrow strip is as
    # high as the side of a frame, but has no other sides.
    across, down = (min(4 * height, 0.9 * side) for side in mask.shape[::-1])
    framed = find_rulings(mask, (across, math.inf)).any()
    mask &= ~find_rulings(mask, (across, down if framed else 4 * height)) & 1
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    height = _median_height(stats[1:, cv2.CC_STAT_HEIGHT], stats[1:, cv2.CC_STAT_AREA])
    pieces = []
    for index, (left, top, width, tall, area) in enumerate(stats):
        speck = area < 8 or max(tall, width) < 0.15 * height
        if index and not speck and tall <= 3 * height:
            own = labels[top : top + tall, left : left + width] == index
            pieces.append(_Piece(own.astype(np.uint8), int(left), int(top)))
    return pieces


def _usual_height(mask: np.ndarray) -> float:
    """The height that half of the ink reaches, each in its component; 0 without ink."""
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    return _median_height(stats[1:, cv2.CC_STAT_HEIGHT], stats[1:, cv2.CC_STAT_AREA])


def _median_height(heights: np.ndarray, areas: np.ndarray) -> float:
    if not len(heights):
        return 0.0
    order = np.argsort(heights)
    total = np.cumsum(areas[order])
    return float(heights[order][np.searchsorted(total, total[-1] / 2)])


def _lines(pieces: list[_Piece]) -> list[list[_Piece]]:
    """The pieces of each line of text, lines from top to bottom."""
    lines: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.height):
        away = [_off_line(piece, line) for line in lines]
        nearest = min(range(len(lines)), key=away.__getitem__, default=None)
        if nearest is not None and away[nearest] <= _off_line_at_most(piece, lines[nearest]):
            lines[nearest].append(piece)
        else:
            lines.append([piece])
    # What stands alone and low is a dash or dirt.
    tallest = max((line[0].height for line in lines), default=0)
    lines = [line for line in lines if line[0].height >= _LOWEST * tallest]
    return sorted(lines, key=lambda line: line[0].top)


def _off_line(piece: _Piece, line: list[_Piece]) -> float:
    """How far its middle lies above or below the pieces of the line that are near it.

    The digits beside it are, so that half of a broken one is not measured by
    its other half alone.
    """
    away = [abs(other.left - piece.left) for other in line]
    reach = max(min(away), 2 * line[0].height)
    near = [other for other, x in zip(line, away, strict=True) if x <= reach]
    middle = (piece.top + piece.bottom) / 2
    return max(min(p.top for p in near) - middle, middle - max(p.bottom for p in near), 0)


def _off_line_at_most(piece: _Piece, line: list[_Piece]) -> float:
    """A bar of a 5 may float above its line; what is as high as a digit stands in it."""
    return _FLOATING * line[0].height if piece.height < _LOWEST * line[0].height else 0.0


# One line


def _read_line(ink: np.ndarray, pieces: list[_Piece], classifier: "Classifier") -> list[_Candidate]:
    """The digits of a line: of all ways to cut and join its pieces, the one that costs least."""
    slant = _slant(pieces)
    height = _median_height(
        np.array([piece.height for piece in pieces]),
        np.array([piece.mask.sum() for piece in pieces]),
    )
    pieces = [_spanned(piece, slant) for piece in pieces]
    tall = [piece for piece in pieces if _is_tall(piece, height)]
    thickness = float(np.median([stroke_width(piece.mask) for piece in tall] or [1]))
    parts = [piece for piece in pieces if piece not in tall and _is_part(piece, tall, height)]
    pieces = [cut for piece in tall + parts for cut in _cut_apart(piece, slant, height)]
    pieces.sort(key=lambda piece: piece.start + piece.end)
    candidates = _candidates(ink, pieces, height)
    if not candidates:
        return []
    images = np.stack([candidate.image for candidate in candidates])
    answers = _with_habits(classifier.predict(images).probabilities, classifier.classes)
    for candidate, probabilities in zip(candidates, answers, strict=True):
        candidate.probabilities = probabilities
        is_one = classifier.classes[int(probabilities.argmax())] == "1"
        usual, deviation = _ASPECT_OF_ONE if is_one else _ASPECT
        if not is_one or candidate.aspect > usual:
            unusual = ((candidate.aspect - usual) / deviation) ** 2 / 2
            candidate.cost += min(_DEAREST_ASPECT, unusual)
        candidate.cost += _COST_OF_DOUBT * max(0.0, _SURE - _log_odds(probabilities))
    dirt = [float(np.clip(p.mask.sum() / (height * thickness), 0.3, 1)) for p in pieces]
    return _cheapest(candidates, [_COST_OF_DIRT * share for share in dirt])


def _with_habits(probabilities: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """The probabilities where what looks like one digit may be another in another hand."""
    weights = np.ones_like(probabilities)
    seen = probabilities.argmax(axis=1)
    for (looks, written), odds in _HABITS.items():
        if looks in classes and written in classes:
            weights[seen == classes.index(looks), classes.index(written)] = odds
    weighted = probabilities * weights
    return weighted / weighted.sum(axis=1, keepdims=True)


def _log_odds(probabilities: np.ndarray) -> float:
    """Of the most probable class against all others; their sum is exact where 1 - p is not."""
    *others, most = np.sort(probabilities.astype(float))
    return math.log(max(most, 1e-12) / max(sum(others), 1e-12))


def _is_tall(piece: _Piece, height: float) -> bool:
    """Whether it is a digit by itself, or several; a low zero is, a dash is not."""
    rows, columns = piece.mask.shape
    round_ = 0.2 * height < columns < 3 * rows and piece.mask.mean() < 0.8
    return rows >= _LOWEST * height or (rows >= 0.3 * height and round_)


def _is_part(piece: _Piece, tall: list[_Piece], height: float) -> bool:
    """Whether it is the bar or a broken stroke of a digit that it lies over or under."""
    return (
        piece.height > 0.1 * height
        and piece.end - piece.start <= 1.2 * height
        and any(_belongs(piece, other, height) for other in tall)
    )


def _belongs(piece: _Piece, digit: _Piece, height: float) -> bool:
    """Whether it lies over or under the digit, closely enough.

    A bar may float above its digit; so far under one belongs only what the
    digit lacks in height.
    """
    shared = min(piece.end, digit.end) - max(piece.start, digit.start)
    lowest = _FLOATING if piece.bottom - digit.top <= 1.1 * height else 0.1
    return (
        shared >= 0.2 * (piece.end - piece.start)
        and digit.top - piece.bottom < _FLOATING * height
        and piece.top - digit.bottom < lowest * height
    )


def _slant(pieces: list[_Piece]) -> float:
    """Pixels to the left for each pixel down at which the strokes stand most upright."""
    rows, columns = (
        np.concatenate(each)
        for each in zip(
            *[
                (rows + piece.top, columns + piece.left)
                for piece in pieces
                for rows, columns in [np.nonzero(piece.mask)]
            ],
            strict=True,
        )
    )
    rows, columns = rows - rows.min(), columns - columns.min()
    slants = np.linspace(-0.2, 0.6, 9)  # hands lean to the right

    def sharpness(slant: float) -> float:
        across = (columns + slant * rows).astype(int)
        return float((np.bincount(across - across.min()).astype(float) ** 2).sum())

    return float(max(slants, key=sharpness))


def _across(piece: _Piece, slant: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of its pixels, and where each is when strokes stand upright."""
    rows, columns = np.nonzero(piece.mask)
    return rows, columns, columns + piece.left + slant * (rows + piece.top)


def _spanned(piece: _Piece, slant: float) -> _Piece:
    _, _, across = _across(piece, slant)
    return replace(piece, start=float(across.min()), end=float(across.max()) + 1)


def _cut_apart(piece: _Piece, slant: float, height: float) -> list[_Piece]:
    """The piece in parts, cut wherever it is held together by little; all of it if it is slim."""
    rows, columns, across = _across(piece, slant)
    position = (across - piece.start).astype(int)
    width = int(position.max()) + 1
    if width < 0.55 * height:
        return [piece]
    held = _held_by(piece, slant, rows, position, width) / height
    apart = max(2, int(_BETWEEN_CUTS * height))
    edges = [0]
    for place in range(apart, width - apart):
        around = held[max(0, place - apart) : place + apart + 1]
        if held[place] <= _MOST_HELD and held[place] == around.min() and place - edges[-1] >= apart:
            edges.append(place)
    parts = []
    for left, right in itertools.pairwise([*edges, width]):
        own = (position >= left) & (position < right)
        if own.any():
            top, side = rows[own].min(), columns[own].min()
            mask = np.zeros((np.ptp(rows[own]) + 1, np.ptp(columns[own]) + 1), np.uint8)
            mask[rows[own] - top, columns[own] - side] = 1
            span = piece.start + left, piece.start + right
            at = piece.left + int(side), piece.top + int(top)
            cut = _COST_OF_CUT * float(held[left]) if left else 0
            parts.append(_Piece(mask, *at, *span, cut))
    return parts


def _held_by(
    piece: _Piece, slant: float, rows: np.ndarray, position: np.ndarray, width: int
) -> np.ndarray:
    """For each place to cut, the pixels from the highest to the lowest ink, and those of loops.

    Digits touch in one place; a cut through two strokes, and most of all
    through a loop, is a cut through a digit.
    """
    import cv2

    highest, lowest = np.full(width, piece.height), np.zeros(width)
    np.minimum.at(highest, position, rows)
    np.maximum.at(lowest, position, rows + 1)
    framed = cv2.copyMakeBorder(piece.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(framed, None, (0, 0), 1)
    loops = replace(piece, mask=1 - framed[1:-1, 1:-1])
    across = _across(loops, slant)[2] - piece.start
    in_loops = np.bincount(np.clip(across.astype(int), 0, width - 1), minlength=width)
    return np.maximum(lowest - highest, 0) + in_loops


def _candidates(ink: np.ndarray, pieces: Sequence[_Piece], height: float) -> list[_Candidate]:
    """Every few neighbours that together are no wider than a digit."""
    candidates = []
    for first in range(len(pieces)):
        for after in range(first + 1, min(first + _MOST_PIECES, len(pieces)) + 1):
            group = pieces[first:after]
            start = min(piece.start for piece in group)
            width = max(piece.end for piece in group) - start
            if len(group) > 1 and width > _WIDEST * height:
                break
            left, top = min(p.left for p in group), min(p.top for p in group)
            right, bottom = max(p.right for p in group), max(p.bottom for p in group)
            tall = bottom - top
            if tall < 0.25 * height:
                continue
            low = max(0, 0.6 - tall / height) / 0.3
            box = left, top, right, bottom
            mask = _mask_of(group, box)
            cost = group[0].cut + _COST_OF_LOW * low + _COST_OF_STRAY * _stray(mask)
            image = draw_digit(cropped(np.where(mask, ink[top:bottom, left:right], 0)))
            candidates.append(_Candidate(first, after, box, image, float(cost), width / tall))
    return candidates


def _mask_of(group: Sequence[_Piece], box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for piece in group:
        place = (
            slice(piece.top - top, piece.bottom - top),
            slice(piece.left - left, piece.right - left),
        )
        mask[place] |= piece.mask
    return mask


def _stray(mask: np.ndarray) -> float:
    """The share of the ink that does not hang together with the most of it."""
    import cv2

    areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
    return 1 - float(areas.max() / areas.sum())


def _cheapest(candidates: list[_Candidate], dirt: list[float]) -> list[_Candidate]:
    """The way through all pieces that costs least; each is in one candidate, or dirt."""
    best: list[tuple[float, list[_Candidate]]] = [(0.0, [])]
    for after in range(1, len(dirt) + 1):
        cost, chosen = best[after - 1]
        ways = [(cost + dirt[after - 1], chosen)]
        for candidate in candidates:
            if candidate.after == after:
                cost, chosen = best[candidate.first]
                ways.append((cost + candidate.cost, [*chosen, candidate]))
        best.append(min(ways, key=lambda way: way[0]))
    return best[-1][1]


def annotate(picture: "Picture", reading: Reading) -> "Image.Image":
    """The picture in colour with each digit's box, label and confidence drawn on it."""
    from PIL import ImageDraw, ImageFont

    drawn = open_upright(picture)
    pen = ImageDraw.Draw(drawn)
    for digit in reading.digits:
        left, top, width, height = digit.box
        line = max(1, height // 40)
        pen.rectangle((left, top, left + width, top + height), outline="red", width=line)
        text = f"{digit.label} {digit.confidence:.0%}"
        size = max(10, height // 6)  # narrow neighbours leave room for no more
        # Above the digit, else under it; over it only where the picture ends on both sides.
        fits_under = top < size and top + height + size <= drawn.height
        y, anchor = (top + height, "la") if fits_under else (top, "lb" if top >= size else "la")
        pen.text((left, y), text, "red", ImageFont.load_default(size), anchor)
    return drawn
