"""The ink on a page: glyphs and strokes in one handwriting."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_digitnet.pages.chance import noise
from keras_digitnet.pages.glyphs import FAR, SIDE, UNCLEAR, Glyph

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Handwriting:
    """The handwriting of one line; lengths are in heights of the line unless stated otherwise.

    Attributes:
        draw: The method of the source that draws the characters.
        height: Height of a typical character, in pixels.
        left: Column where the line starts, in pixels.
        middle: Row of the line's middle at the page's centre, in pixels.
        slope: Slope of the line, in rows per column.
        shear: Shear of the characters, in columns per row.
        stretch: Factor on the width of the characters.
        pen: Half the stroke width, for paths.
        outline_growth: Growth of an outline on each side, in units of 1.5 pixels of the field;
            negative values shrink it.
        edge_width: Width of a stroke's soft edge, in pixels.
        darkness: Darkness of the ink, from 0 to 1.
        gap: Mean gap between two characters.
        gap_std: Standard deviation of the gaps.
        log_height_std: Standard deviation of the logarithm of the heights.
        clutter_rate: Probability that a position holds clutter.
        starts_with_mark: Whether the line starts with a mark.
        ends_with_mark: Whether the line ends with a mark.
        separator_rate: Probability of a dot or comma after a character.
        max_characters: Maximum number of characters.
        bend: Standard deviation of a smooth elastic distortion of the glyphs, in
            pixels of the field.
    """

    draw: Callable[[np.random.Generator, int], Glyph]
    height: float
    left: float
    middle: float
    slope: float
    shear: float
    stretch: float
    pen: float
    outline_growth: float
    edge_width: float
    darkness: float
    gap: float
    gap_std: float
    log_height_std: float
    clutter_rate: float
    starts_with_mark: bool
    ends_with_mark: bool
    separator_rate: float
    max_characters: int
    bend: float

    def marks(self, place: int, count: int) -> bool:
        """Whether there is a mark at that position of `count`, like the signs around an amount."""
        if place == 0:
            return self.starts_with_mark
        return self.ends_with_mark and place == count - 1


class Ink:
    """The ink on a page, and the boxes of its characters.

    Args:
        height: Rows of the page, in pixels.
        width: Columns of the page, in pixels.

    Attributes:
        layer: `(H, W)` float32, from 0, no ink, to 1.
        boxes: Left, top, right and bottom, in pixels, and label of each character.
        unclear: The boxes of clutter that might be a character.
    """

    def __init__(self, height: int, width: int) -> None:
        self.layer = np.zeros((height, width), np.float32)
        self.boxes: list[tuple[float, float, float, float, int]] = []
        self.unclear: list[Box] = []

    def draw(
        self,
        glyph: Glyph,
        centre: tuple[float, float],
        scale: tuple[float, float],
        hand: Handwriting,
        pen: float,
        angle: float,
        tone: float,
        random: np.random.Generator,
    ) -> Box:
        """Draws a glyph; returns its box, which may extend beyond the page.

        Args:
            glyph: The shape.
            centre: Column and row of its centre, in pixels.
            scale: Horizontal and vertical pixels of the page per pixel of the field.
            hand: The handwriting.
            pen: Half the stroke width of a path, in pixels.
            angle: Rotation, in radians.
            tone: Darkness, from 0 to 1.
            random: Generator of the elastic distortion.
        """
        field, left, top = _placed(glyph, centre, scale, hand, pen, angle, random)
        pixel = math.sqrt(scale[0] * scale[1])
        half = max(pen, 0.5) if glyph.is_path else hand.outline_growth * pixel * 1.5
        if not glyph.is_path:  # thin strokes must not vanish
            half = max(half, 0.45 + pixel * float(glyph.field.min()))
        drawn = np.clip((half - field * pixel) / hand.edge_width + 0.5, 0, 1)
        box = _box_of(drawn > 0.35, left, top) or (*centre, *centre)
        self._add(drawn * tone, left, top)
        if glyph.label >= 0:
            self.boxes.append((*box, glyph.label))
        elif glyph.label == UNCLEAR:
            self.unclear.append(box)
        return box

    def join(
        self,
        before: Box,
        after: Box,
        hand: Handwriting,
        random: np.random.Generator,
        at_top: bool = False,
    ) -> None:
        """Draws a stroke that joins one character's box to the next one's, at any height."""
        if at_top:
            start, end = ((0.4 * box[0] + 0.6 * box[2], box[1] + 1) for box in (before, after))
        else:
            start = (before[2] - 1, random.uniform(before[1], before[3]))
            end = (after[0] + 1, random.uniform(after[1], after[3]))
        self.stroke(
            np.array([start, end]), max(1, round(1.6 * hand.pen * hand.height)), hand.darkness
        )

    def stroke(self, path: np.ndarray, thickness: int, tone: float) -> None:
        """Draws a line through the points `(P, 2)`, columns before rows, in pixels."""
        import cv2

        stroke = np.zeros_like(self.layer, dtype=np.uint8)
        points = np.round(16 * path).astype(np.int32)
        cv2.polylines(stroke, [points], False, 255, thickness, cv2.LINE_AA, 4)
        np.maximum(self.layer, stroke * np.float32(tone / 255), out=self.layer)

    def meets(self, box: Box) -> bool:
        """Whether the box overlaps a character."""
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


def _placed(
    glyph: Glyph,
    centre: tuple[float, float],
    scale: tuple[float, float],
    hand: Handwriting,
    pen: float,
    angle: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, int, int]:
    """A glyph's field in pixels of the page, and the column and row of its upper left corner.

    The arguments are those of `Ink.draw`.
    """
    import cv2

    column, row = centre
    shear = np.array([[1, -hand.shear], [0, 1]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ shear @ np.diag(scale)
    reach = np.abs(forward) @ [glyph.width / 2 + 3, glyph.height / 2 + 3] + pen + 2
    left, top = math.floor(column - reach[0]), math.floor(row - reach[1])
    right, bottom = math.ceil(column + reach[0]) + 1, math.ceil(row + reach[1]) + 1
    (a, b), (c, d) = forward
    back = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
    offset = np.array([SIDE / 2 - 0.5, SIDE / 2 - 0.5]) - back @ [column - left, row - top]
    field = cv2.warpAffine(
        _bent(glyph.field, hand.bend, random),
        np.column_stack([back, offset]),
        (min(right - left, 512), min(bottom - top, 512)),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=FAR,
    )
    return field, left, top


def _bent(field: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """A glyph's field, elastically distorted."""
    import cv2

    coarse = random.standard_normal((5, 5, 2), np.float32) * np.float32(amount)
    away = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) + _AT
    return cv2.remap(field, away, None, cv2.INTER_LINEAR, borderValue=FAR)


def _box_of(mask: np.ndarray, left: int, top: int) -> Box | None:
    import cv2

    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return None
    return float(left + x), float(top + y), float(left + x + width), float(top + y + height)


# The coordinates of a field's pixels: column, row.
_AT = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).astype(np.float32)


def rub(layer: np.ndarray, random: np.random.Generator) -> None:
    """Breaks up the ink along the paper's grain, in place, as pencils and dry pens do."""
    grain = noise(layer.shape, 2, random)
    layer *= 1 - random.uniform(0.2, 1.1) * np.clip(0.8 * grain - random.uniform(0.2, 1.2), 0, 1)
