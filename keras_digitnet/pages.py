"""Pages composed at random: handwritten lines on all kinds of paper, and where each digit is.

What a page shows follows from its random generator alone, so that the same seed gives the same
pages. The numbers here are what the world looks like, not what is read: nothing that reads a
picture uses them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from keras_digitnet.glyphs import FAR, HIGH, SIDE, Glyph, GlyphSource
from keras_digitnet.strokes import smooth

T = TypeVar("T")
Sides = tuple[float, float, float, float]  # left, top, right, bottom

# Characters that are sought are so high, in pixels of the page; lower and higher ones are seen at
# other scales. In between nothing is asked.
LOWEST, HIGHEST = 10.0, 42.0
_LARGE = 60.0  # from here on no part may be taken for a character
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


@dataclass(frozen=True)
class _Hand:
    """How the characters of one line are written; lengths in heights of the line.

    Attributes:
        draw: A method of the source: how each is drawn.
        height: Of a usual character, in pixels.
        left: Where the line starts, in pixels.
        middle: Its height on the page there, in pixels.
        slope: Rows a column.
        shear: Columns a row.
        stretch: Of the width.
        pen: Half of the stroke's width, for paths.
        fat: What an outline gains on each side, in its half widths.
        soft: Width of a stroke's rim, in pixels.
        tone: Darkness of the ink, from 0 to 1.
        gap: Between two characters.
        uneven: Standard deviation of gaps.
        sizes: Standard deviation of the heights, as their logarithm.
        marked: Chance that a place holds clutter.
        opened: Whether a mark comes first.
        closed: Whether a mark comes last.
        count: Characters at most.
        bend: How far points of a glyph are moved, standard deviation in pixels
            of its field; neighbouring points together.
    """

    draw: Callable[[np.random.Generator, int], Glyph]
    height: float
    left: float
    middle: float
    slope: float
    shear: float
    stretch: float
    pen: float
    fat: float
    soft: float
    tone: float
    gap: float
    uneven: float
    sizes: float
    marked: float
    opened: bool
    closed: bool
    count: int
    bend: float

    def marks(self, place: int) -> bool:
        """Whether a mark stands there, as the signs about an amount do."""
        if place == 0:
            return self.opened
        return self.closed and place == self.count - 1


class Composer:
    """Composes pages of one shape.

    Args:
        source: What draws the characters.
        shape: Rows and columns of a page, in pixels.
        num_classes: Labels are drawn evenly below it.
    """

    def __init__(self, source: GlyphSource, shape: tuple[int, int], num_classes: int) -> None:
        self._source = source
        self._height, self._width = shape
        self._classes = num_classes

    def compose(self, random: np.random.Generator) -> Page:
        """One page."""
        ink = _Ink(self._height, self._width)
        kind = random.random()
        empty = kind < 0.2  # of characters that are sought
        if kind < 0.05:
            self._write_large(ink, random)
        lines = 0 if kind < 0.1 else _chosen(random, (1, 2, 3), (0.56, 0.26, 0.18))
        for line in range(lines):
            hand = self._hand(random, line, lines)
            self._write_line(ink, hand, random, words=empty or random.random() < 0.06)
        if random.random() < (0.5 if empty else 0.25):
            self._scatter(ink, random)
        if random.random() < (0.5 if empty else 0.08):
            self._scribble(ink, random)
        if random.random() < 0.25:
            _rub(ink.layer, random)
        cell = None
        if random.random() < 0.4:
            cell = _around(ink, self._height, self._width, random)
        image = _paper(self._height, self._width, ink, cell, random)
        image = _photographed(image, random)
        return _framed(image, ink, cell, random)

    def _hand(self, random: np.random.Generator, line: int, lines: int) -> _Hand:
        room = self._height / lines
        low, high = (12, 0.86 * room) if lines == 1 else (11.5, min(1.15 * room, 22))
        height = _log_uniform(random, low, high)
        if random.random() < 0.03:
            height = random.uniform(4, 8)
        spare = max(room - height, 0) / 2 + 0.1 * height
        long = random.random() < 0.8
        return _Hand(
            draw=_chosen(
                random,
                (self._source.outline, self._source.path, self._source.styled, self._any),
                (0.28, 0.26, 0.21, 0.25),
            ),
            height=height,
            left=random.uniform(-8, 40) if long else random.uniform(-8, 0.85 * self._width),
            middle=room * (line + 0.5) + random.uniform(-spare, spare),
            slope=random.normal(0, 0.03),
            shear=0.0
            if random.random() < 0.2
            else float(np.clip(random.normal(0.1, 0.23), -0.5, 0.75)),
            stretch=float(np.clip(random.lognormal(0.03, 0.17), 0.65, 1.6)),
            pen=_log_uniform(random, 0.026, 0.1),
            fat=random.uniform(-0.3, 0.5),
            soft=random.uniform(0.7, 1.6),
            tone=random.uniform(0.5, 1) if random.random() < 0.3 else random.uniform(0.75, 1),
            gap=_chosen(
                random,
                (random.uniform(-0.12, 0.06), random.uniform(0.04, 0.35), random.uniform(0.3, 1.1)),
                (0.3, 0.55, 0.15),
            ),
            uneven=0.18 if random.random() < 0.3 else 0.07,
            sizes=0.2 if random.random() < 0.3 else 0.06,
            marked=0.22 if random.random() < 0.45 else 0.03,
            opened=random.random() < 0.12,
            closed=random.random() < 0.4,
            count=_chosen(random, (1, int(random.integers(1, 9)), 20), (0.05, 0.25, 0.7)),
            bend=_log_uniform(random, 0.25, 1.2),
        )

    def _any(self, random: np.random.Generator, label: int) -> Glyph:
        source = self._source
        draw = (source.outline, source.path, source.styled)[random.integers(3)]
        return draw(random, label)

    def _write_line(
        self, ink: "_Ink", hand: _Hand, random: np.random.Generator, words: bool
    ) -> None:
        at, label, before = hand.left, 0, None
        small = random.random() < 0.12  # some labels stay low beside the others, as 0 beside 7
        low = random.random(self._classes) < 0.25
        fresh = random.random() >= 0.2  # else a label often comes twice
        joined = random.random() < 0.1
        for place in range(hand.count):
            if at > self._width + 4:
                break
            if place == 0 or fresh or random.random() < 0.6:
                label = int(random.integers(self._classes))
            if words:
                glyph = self._source.letter(random)
            elif hand.marks(place):
                glyph = self._source.mark(random)
            elif random.random() < hand.marked:
                glyph = self._source.clutter(random)
            else:
                glyph = hand.draw(random, label)
            size = float(np.clip(random.lognormal(0, hand.sizes), 0.55, 1.4))
            shift = random.normal(0, 0.05)
            if glyph.label >= 0 and small and low[label]:
                size *= random.uniform(0.4, 0.8)
                shift += random.uniform(-0.5, 0.5) * (1 - size)
            if glyph.label < 0 and glyph.height < 0.35 * HIGH:  # a dot or dash: at any height
                shift += random.uniform(-0.5, 0.55)
            box = self._write(ink, glyph, hand, at, size, shift, random)
            if joined and before is not None and random.random() < 0.7:
                ink.join(before, box, hand, random)
            before = box
            gap = hand.gap + random.normal(0, hand.uneven)
            if random.random() < 0.05:
                gap += random.uniform(0.3, 1.5)
            width = box[2] - box[0]
            at += width + max(gap * hand.height, -0.25 * width)

    def _write(
        self,
        ink: "_Ink",
        glyph: Glyph,
        hand: _Hand,
        at: float,
        size: float,
        shift: float,
        random: np.random.Generator,
    ) -> tuple[float, float, float, float]:
        """Draws a glyph whose left side is at `at`; returns its box."""
        own = glyph.height if glyph.label >= 0 else HIGH
        # What is low in the data set, as a dash-like 1, stays low.
        tall = size * hand.height / max(own, 0.6 * HIGH)
        wide = tall * hand.stretch * random.lognormal(0, 0.08)
        width = glyph.width * wide
        column = at + width / 2
        row = hand.middle + shift * hand.height + (column - self._width / 2) * hand.slope
        angle = random.normal(0, 0.06)
        pen = hand.pen * hand.height * (1.0 if glyph.label >= 0 else random.uniform(1, 1.6))
        return ink.draw(
            glyph,
            (column, row),
            (wide, tall),
            hand,
            pen,
            angle,
            hand.tone * random.uniform(0.85, 1),
            random,
        )

    def _write_large(self, ink: "_Ink", random: np.random.Generator) -> None:
        """A character or letter too large for the page; another scale is where it is read."""
        height = random.uniform(_LARGE, 4 * self._height)
        hand = replace(
            self._hand(random, 0, 1),
            height=height,
            middle=random.uniform(-0.2, 1.2) * self._height,
            left=random.uniform(-0.5 * height, self._width),
            pen=random.uniform(0.03, 0.09),
        )
        if random.random() < 0.4:
            glyph = self._source.letter(random)
        else:
            glyph = hand.draw(random, int(random.integers(self._classes)))
        self._write(ink, glyph, hand, hand.left, 1.0, 0.0, random)

    def _scatter(self, ink: "_Ink", random: np.random.Generator) -> None:
        """Letters and marks anywhere but on characters: faint print, words, scribbles."""
        for _ in range(random.integers(1, 7)):
            height = _log_uniform(random, 6, self._height)
            hand = replace(
                self._hand(random, 0, 1),
                height=height,
                middle=random.uniform(0, self._height),
                left=random.uniform(-10, self._width),
                tone=random.uniform(0.06, 0.3) if random.random() < 0.5 else random.uniform(0.4, 1),
            )
            glyph = self._source.clutter(random)
            reach = (
                hand.left - 2,
                hand.middle - height,
                hand.left + 1.5 * height,
                hand.middle + height,
            )
            if hand.tone < 0.3 or not ink.meets(reach):
                self._write(ink, glyph, hand, hand.left, 1.0, 0.0, random)

    def _scribble(self, ink: "_Ink", random: np.random.Generator) -> None:
        """A pen that goes to and fro, in corners or in curves, but not over characters."""
        side = _log_uniform(random, 10, 3 * self._height)
        middle = np.array([random.uniform(0, self._width), random.uniform(0, self._height)])
        if ink.meets((*(middle - side / 2), *(middle + side / 2))):
            return
        points = middle + random.uniform(-0.5, 0.5, (int(random.integers(4, 20)), 2)) * side
        path = smooth(points) if random.random() < 0.5 else points
        ink.stroke(path, int(random.integers(1, 5)), random.uniform(0.4, 1))


class _Ink:
    """The ink on a page, and the boxes of what was drawn with it.

    Attributes:
        layer: `(H, W)` float32, from 0, no ink, to 1.
        boxes: Left, top, right, bottom and label of each character.
    """

    def __init__(self, height: int, width: int) -> None:
        self.layer = np.zeros((height, width), np.float32)
        self.boxes: list[tuple[float, float, float, float, int]] = []

    def draw(
        self,
        glyph: Glyph,
        centre: tuple[float, float],
        scale: tuple[float, float],
        hand: _Hand,
        pen: float,
        angle: float,
        tone: float,
        random: np.random.Generator,
    ) -> tuple[float, float, float, float]:
        """Draws a glyph; returns its box, also where that lies beyond the page."""
        import cv2

        column, row = centre
        wide, tall = scale
        slant = np.array([[1, -hand.shear], [0, 1]])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forward = turn @ slant @ np.diag([wide, tall])
        reach = np.abs(forward) @ [glyph.width / 2 + 3, glyph.height / 2 + 3] + pen + 2
        left, top = math.floor(column - reach[0]), math.floor(row - reach[1])
        right, bottom = math.ceil(column + reach[0]) + 1, math.ceil(row + reach[1]) + 1
        size = (min(right - left, 512), min(bottom - top, 512))
        (a, b), (c, d) = forward
        back = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
        offset = np.array([SIDE / 2 - 0.5, SIDE / 2 - 0.5]) - back @ [column - left, row - top]
        field = cv2.warpAffine(
            _bent(glyph.field, hand.bend, random),
            np.column_stack([back, offset]),
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=FAR,
        )
        pixel = math.sqrt(wide * tall)
        half = max(pen, 0.5) if glyph.is_path else hand.fat * pixel * 1.5
        if not glyph.is_path:  # thin strokes must not vanish
            half = max(half, 0.45 + pixel * float(glyph.field.min()))
        drawn = np.clip((half - field * pixel) / hand.soft + 0.5, 0, 1)
        box = _box_of(drawn > 0.35, left, top) or (column, row, column, row)
        self._add(drawn * tone, left, top)
        if glyph.label >= 0:
            self.boxes.append((*box, glyph.label))
        return box

    def join(
        self,
        before: tuple[float, float, float, float],
        after: tuple[float, float, float, float],
        hand: _Hand,
        random: np.random.Generator,
    ) -> None:
        """A stroke from one character to the next."""
        start = (before[2] - 1, random.uniform(before[1], before[3]))
        end = (after[0] + 1, random.uniform(after[1], after[3]))
        self.stroke(np.array([start, end]), max(1, round(1.6 * hand.pen * hand.height)), hand.tone)

    def stroke(self, path: np.ndarray, thickness: int, tone: float) -> None:
        """A line through the points `(P, 2)`, columns and rows."""
        import cv2

        stroke = np.zeros_like(self.layer, dtype=np.uint8)
        points = np.round(16 * path).astype(np.int32)
        cv2.polylines(stroke, [points], False, 255, thickness, cv2.LINE_AA, 4)
        np.maximum(self.layer, stroke * np.float32(tone / 255), out=self.layer)

    def meets(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a character lies in the box."""
        return any(
            left < box[2] and right > box[0] and top < box[3] and bottom > box[1]
            for left, top, right, bottom, _ in self.boxes
        )

    def _add(self, drawn: np.ndarray, left: int, top: int) -> None:
        height, width = self.layer.shape
        rows = slice(max(top, 0), min(top + drawn.shape[0], height))
        columns = slice(max(left, 0), min(left + drawn.shape[1], width))
        if rows.start < rows.stop and columns.start < columns.stop:
            part = self.layer[rows, columns]
            cut = drawn[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            np.maximum(part, cut, out=part)


def _bent(field: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """A glyph's field as if it had been drawn on rubber that was stretched unevenly."""
    import cv2

    coarse = random.standard_normal((5, 5, 2), np.float32) * np.float32(amount)
    away = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) + _AT
    return cv2.remap(field, away, None, cv2.INTER_LINEAR, borderValue=FAR)


def _box_of(mask: np.ndarray, left: int, top: int) -> tuple[float, float, float, float] | None:
    import cv2

    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return None
    return float(left + x), float(top + y), float(left + x + width), float(top + y + height)


# Where each pixel of a field is: columns and rows.
_AT = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).astype(np.float32)


def _rub(layer: np.ndarray, random: np.random.Generator) -> None:
    """Pencil and dry pens: the ink is broken by the paper's grain."""
    grain = _noise(layer.shape, 2, random)
    layer *= 1 - random.uniform(0.2, 1.1) * np.clip(0.8 * grain - random.uniform(0.2, 1.2), 0, 1)


def _noise(shape: tuple[int, ...], coarse: int, random: np.random.Generator) -> np.ndarray:
    """`shape` float32 of unit normal noise whose grain is `coarse` pixels."""
    import cv2

    height, width = shape
    small = random.standard_normal((height // coarse + 1, width // coarse + 1), np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


# Paper


def _paper(
    height: int, width: int, ink: _Ink, cell: Sides | None, random: np.random.Generator
) -> np.ndarray:
    """`(H, W)` float32 from 0 to 1: printed and ruled paper in some light, the ink on it."""
    paper = np.full((height, width), random.uniform(0.5, 0.98), np.float32)
    darkness = random.uniform(0.28, 0.5) if random.random() < 0.2 else random.uniform(0.45, 0.96)
    if random.random() < 0.5:
        for _ in range(random.integers(1, 4)):  # faint ink would drown in strong patterns
            paper *= 1 - min(1.0, 1.4 * darkness) * _pattern(height, width, random)
    if random.random() < 0.3:
        paper *= 1 - random.uniform(0, 0.08) * np.clip(_noise(paper.shape, 3, random), -2, 2)
    if random.random() < 0.12:
        stain = np.clip(_noise(paper.shape, 24, random) - random.uniform(0, 1), 0, 1)
        paper *= 1 - random.uniform(0.1, 0.6) * stain
    if random.random() < 0.08:
        paper *= 1 - _blots(height, width, random)
    printed = _rulings(height, width, cell, random)
    page = paper * (1 - printed) * (1 - darkness * ink.layer)
    return page * _light(height, width, random)


def _blots(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` darkness of round stains with soft edges."""
    import cv2

    blots = np.zeros((height, width), np.float32)
    for _ in range(random.integers(1, 4)):
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = [int(_log_uniform(random, 4, 60)) for _ in range(2)]
        cv2.ellipse(blots, centre, axes, random.uniform(0, 180), 0, 360, 1.0, -1)
    return random.uniform(0.1, 0.5) * cv2.GaussianBlur(blots, (0, 0), random.uniform(1.5, 8))


def _pattern(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """A printed background: parallel, wavy or round lines, dashed or fading, as on cheques."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = random.uniform(-0.15, 0.15) if random.random() < 0.4 else random.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    if random.random() < 0.3:
        middle = random.uniform(-40, width + 40), random.uniform(-80, height + 80)
        across = np.hypot(x - middle[0], (y - middle[1]) * random.uniform(0.6, 1.6))
    for reach, shortest, longest in ((4, 10, 150), (1.5, 5, 40)):
        rhythm = 2 * math.pi / _log_uniform(random, shortest, longest)
        across = across + random.uniform(0, reach) * np.sin(along * rhythm)
    wave = np.cos(across * 2 * math.pi / _log_uniform(random, 2.2, 13))
    duty = random.uniform(-0.4, 0.85)
    lines = np.clip((wave - duty) / (1 - duty) * random.uniform(1, 3), 0, 1)
    if random.random() < 0.15:
        lines *= np.maximum(np.cos(along * 2 * math.pi / _log_uniform(random, 2.5, 10)), 0)
    if random.random() < 0.4:
        fade = 0.5 + 0.5 * np.sin(along / _log_uniform(random, 8, 60) + random.uniform(0, 6))
        lines *= 1 - random.uniform(0, 1) * fade
    return (random.uniform(0.03, 0.34) * lines).astype(np.float32)


def _rulings(
    height: int, width: int, cell: Sides | None, random: np.random.Generator
) -> np.ndarray:
    """`(H, W)` darkness of printed lines: rulings, squares, and the borders of a cell."""
    import cv2

    printed = np.zeros((height, width), np.uint8)
    tilt = random.normal(0, 0.012)

    def line(at: float, across: bool, thickness: int) -> None:
        slant = (tilt + random.normal(0, 0.006)) * (width if across else height)
        ends = ((-1, at), (width, at + slant)) if across else ((at, -1), (at - slant, height))
        points = [(round(16 * x), round(16 * y)) for x, y in ends]
        cv2.line(printed, points[0], points[1], 255, thickness, cv2.LINE_AA, 4)

    for often, across, side in ((0.3, True, height), (0.14, False, width)):
        if random.random() < often:
            step = 1e3 if random.random() < 0.4 else _log_uniform(random, 9, 70)
            thickness = 1 if random.random() < 0.7 else 2
            for at in np.arange(random.uniform(0, min(step, side)), side, step):
                line(at, across, thickness)
    if cell is not None:
        thickness = 1 if random.random() < 0.5 else int(random.integers(2, 4))
        # Where two cells meet there may be two lines.
        apart = random.uniform(2, 6) if random.random() < 0.3 else 0.0
        for index, at in enumerate(cell):
            if random.random() < 0.85:
                line(at, index % 2 == 1, thickness)
                if apart:
                    line(at + (apart if index > 1 else -apart), index % 2 == 1, thickness)
    soft = cv2.GaussianBlur(printed, (0, 0), random.uniform(0.3, 0.8)).astype(np.float32) / 255
    return soft * (random.uniform(0.08, 0.4) if random.random() < 0.4 else random.uniform(0.3, 0.9))


def _around(ink: _Ink, height: int, width: int, random: np.random.Generator) -> Sides:
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


def _light(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` of light: even, falling off, or with a shadow on a part, softly or sharply."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = np.ones((height, width), np.float32)
    if random.random() < 0.5:
        angle = random.uniform(0, 2 * math.pi)
        ramp = (x - width / 2) * math.cos(angle) / width + (y - height / 2) * math.sin(
            angle
        ) / height
        light *= 1 + random.uniform(0, 0.7) * ramp
    if random.random() < 0.18:
        angle = random.uniform(0, 2 * math.pi)
        away = (x - random.uniform(0, width)) * math.cos(angle)
        away += (y - random.uniform(0, height)) * math.sin(angle)
        edge = 1 / (1 + np.exp(np.clip(-away / _log_uniform(random, 0.4, 20), -30, 30)))
        light *= 1 - random.uniform(0.15, 0.65) * edge
    return light


def _photographed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` uint8: out of focus, coarse, noisy, of any contrast or polarity, compressed."""
    import cv2

    height, width = image.shape
    if random.random() < 0.2:  # a picture of few pixels, enlarged
        factor = random.uniform(0.4, 0.9)
        size = (round(width * factor), round(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        how = cv2.INTER_LINEAR if random.random() < 0.7 else cv2.INTER_NEAREST
        image = cv2.resize(image, (width, height), interpolation=how)
    if random.random() < 0.7:
        blur = random.uniform(0.3, 0.7) if random.random() < 0.65 else random.uniform(0.5, 1.5)
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if random.random() < 0.6:
        image = image + random.uniform(0, 0.04) * random.standard_normal(image.shape, np.float32)
    if random.random() < 0.2:
        image = image + random.uniform(0, 0.06) * _noise(image.shape, 2, random)
    if random.random() < 0.2:
        image = 1 - image
    if random.random() < 0.35:
        image = 0.5 + (image - 0.5) * random.uniform(0.35, 1.2) + random.uniform(-0.2, 0.2)
    if random.random() < 0.08:  # binarized as scanners do it, or nearly so
        away = image - cv2.GaussianBlur(image, (0, 0), random.uniform(10, 30))
        level = random.uniform(0.25, 0.5) * away.min()
        image = 0.5 + random.uniform(1, 10) * (away - level) / max(float(away.std()), 0.02)
    pixels = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    if random.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(25, 95))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_GRAYSCALE)
    return pixels


# What of it is seen


def _framed(image: np.ndarray, ink: _Ink, cell: Sides | None, random: np.random.Generator) -> Page:
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
    return _seen(image, ink, frame)


def _cut(
    ink: _Ink, cell: Sides | None, height: int, width: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where a picture ends: at a cell's borders, about characters, or anywhere."""
    if cell is not None and random.random() < 0.7:
        # The borders are in the picture, along its edge, or just out of it.
        cut = [
            at + side * random.uniform(-2, 9) for at, side in zip(cell, (-1, -1, 1, 1), strict=True)
        ]
    elif random.random() < 0.5:
        cut = list(_around(ink, height, width, random))
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


def _seen(image: np.ndarray, ink: _Ink, frame: tuple[int, int, int, int]) -> Page:
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
        wanted[index] = _likeness(image, ink.layer, clipped[index]) > _LEGIBLE
    doubtful = ~wanted & (shown > 0.3) & (tall < _LARGE)
    return Page(image, clipped[wanted], labels[wanted], clipped[doubtful])


def _likeness(image: np.ndarray, layer: np.ndarray, box: np.ndarray) -> float:
    """How well the page shows the ink in a box: the correlation of the two, from 0 to 1."""
    left, top, right, bottom = box.astype(int)
    part = np.s_[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2]
    seen, drawn = image[part] - image[part].mean(), layer[part] - layer[part].mean()
    both = math.sqrt(float((seen**2).sum() * (drawn**2).sum()))
    return abs(float((seen * drawn).sum())) / both if both else 0.0


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def _chosen(random: np.random.Generator, values: Sequence[T], chances: Sequence[float]) -> T:
    return values[int(np.searchsorted(np.cumsum(chances), random.random()))]
