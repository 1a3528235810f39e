"""Glyphs as distance fields, which can be drawn sharply at any pen width, size and shear."""

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet.pages import strokes

# A field's side, and the typical height of a digit in it, in pixels of the field.
SIDE = 56
HIGH = 40

_MAGNIFIED = 2  # from MNIST's 28 pixels
_INK = 115  # threshold of ink in a magnified image, of 255
# Distances are clipped to this.
FAR = 15.0
UNCLEAR = -2
# Letters that do not look like digits, and signs.
_LETTERS = "".join(c for c in string.ascii_letters if c not in "bBDgGiIlLoOqQsSzZ")
_SIGNS = "#%&@?()"
_FONTS = [
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmb10",
    "cmmi10",
    "cmr10",
    "cmss10",
    "cmtt10",
]


@dataclass(frozen=True)
class Glyph:
    """A shape to draw, centred in its field.

    Attributes:
        field: `(SIDE, SIDE)` float32, each pixel's distance to the pen's path,
            or, for outlines, to the edge of the ink, negative inside.
        is_path: Whether the field is that of a path.
        width: Width of the path or ink, in pixels of the field.
        height: Height of the path or ink, in pixels of the field.
        label: Index of its class; -1 for clutter, `UNCLEAR` for clutter that
            might be a character.
    """

    field: np.ndarray
    is_path: bool
    width: float
    height: float
    label: int = -1


class GlyphSource:
    """Draws random glyphs from a data set's images, from strokes and from fonts.

    Args:
        images: `(N, 28, 28, 1)` uint8, light on dark: one character each.
        labels: `(N,)` integers.
        classes: The class names. If they are the ten digits, digits are also
            drawn from strokes, and letters are used as clutter.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        self._images = images[..., 0]
        self._labels = labels
        self._skeletons = _skeletons(self._images)
        self.digits_only = tuple(classes) == tuple(string.digits)
        self._of_class = [np.flatnonzero(labels == label) for label in range(len(classes))]

    def outline(self, random: np.random.Generator, label: int) -> Glyph:
        """A character as its writer drew it."""
        return _outline(_centred_ink(self._images[random.choice(self._of_class[label])]), label)

    def path(self, random: np.random.Generator, label: int) -> Glyph:
        """A character's skeleton, for a pen of any width; a 1 may get a flag, a 7 a bar."""
        index = random.choice(self._of_class[label])
        mask = np.unpackbits(self._skeletons[index], count=SIDE * SIDE).reshape(SIDE, SIDE)
        if self.digits_only and label in (1, 7) and random.random() < 0.3:
            mask = _flagged(mask, random) if label == 1 else _barred(mask, random)
        return _path(mask, label)

    def styled(self, random: np.random.Generator, label: int) -> Glyph:
        """A digit drawn from strokes, often in a style that MNIST lacks."""
        if not self.digits_only:
            return self.path(random, label)
        styles = strokes.DIGITS[str(label)]
        paths = strokes.drawn(
            styles[random.integers(len(styles))], random, random.uniform(0.01, 0.04)
        )
        return _drawn(paths, random.uniform(0.75, 1.35), label)

    def clutter(self, random: np.random.Generator) -> Glyph:
        """A mark, or a letter unless letters are classes."""
        if random.random() < 0.5:
            return self.letter(random, self.font(random))
        return self.mark(random)

    def mark(self, random: np.random.Generator) -> Glyph:
        """Punctuation, a sign or a scribble, to the scale of a digit of height `HIGH`."""
        marks = strokes.USUAL_MARKS if random.random() < 0.6 else strokes.MARKS
        style = marks[random.integers(len(marks))]
        label = UNCLEAR if style in strokes.SLASHES else -1
        return _drawn(strokes.drawn(style, random), random.uniform(0.7, 1.4), label)

    def separator(self, random: np.random.Generator) -> Glyph:
        """A dot or comma, to the same scale."""
        style = strokes.SEPARATORS[random.integers(len(strokes.SEPARATORS))]
        return _drawn(strokes.drawn(style, random), random.uniform(0.7, 1.4))

    def font(self, random: np.random.Generator) -> int:
        """A font, and whether its letters are drawn as strokes, for `letter`."""
        return int(random.integers(2 * len(_FONTS)))

    def letter(self, random: np.random.Generator, font: int) -> Glyph:
        """A printed letter or its skeleton; a mark if letters are classes."""
        if not self.digits_only:
            return self.mark(random)
        drawn, number = divmod(font, len(_FONTS))
        masks, skeletons = _letters()[number]
        index = random.integers(len(masks))
        return _path(skeletons[index]) if drawn else _outline(masks[index])


def _centred_ink(image: np.ndarray) -> np.ndarray:
    """The `(SIDE, SIDE)` mask of a `(28, 28)` image's ink, centred by its box."""
    import cv2

    side = _MAGNIFIED * image.shape[0]
    mask = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) > _INK
    return _centred(mask.astype(np.uint8))


def _centred(mask: np.ndarray) -> np.ndarray:
    """The mask centred in a field, shrunk if it does not fit."""
    import cv2

    left, top, width, height = cv2.boundingRect(mask)
    cut = mask[top : top + height, left : left + width]
    field = np.zeros((SIDE, SIDE), np.uint8)
    if not cut.size:
        return field
    most = SIDE - 4
    if max(width, height) > most:
        scale = most / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        cut = cv2.resize(cut, (width, height), interpolation=cv2.INTER_NEAREST)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    field[top : top + height, left : left + width] = cut
    return field


def _outline(mask: np.ndarray, label: int = -1) -> Glyph:
    import cv2

    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    # Half a pixel each way: the edge runs between two pixels.
    field = np.where(mask, 0.5 - inside, outside - 0.5).astype(np.float32)
    _, _, width, height = cv2.boundingRect(mask)
    return Glyph(np.minimum(field, FAR), False, max(width, 1), max(height, 1), label)


def _path(mask: np.ndarray, label: int = -1) -> Glyph:
    import cv2

    field = np.minimum(cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5), FAR)
    _, _, width, height = cv2.boundingRect(mask)
    return Glyph(field, True, max(width, 1), max(height, 1), label)


def _drawn(paths: Sequence[np.ndarray], stretched: float, label: int = -1) -> Glyph:
    """The glyph of strokes given in digit heights; a digit is scaled to `HIGH`, a mark is not."""
    import cv2

    points = np.vstack(paths)
    low, high = points.min(axis=0), points.max(axis=0)
    tall = HIGH / max(high[1] - low[1], 0.3) if label >= 0 else float(HIGH)
    scale = np.array([tall * stretched, tall])
    scale *= np.minimum(1, (SIDE - 6) / np.maximum((high - low) * scale, 1))
    fine = 2  # drawn at twice the size, with four fractional bits
    canvas = np.ones((fine * SIDE, fine * SIDE), np.uint8)
    for path in paths:
        at = ((path - (low + high) / 2) * scale + SIDE / 2) * fine - 0.5
        cv2.polylines(canvas, [np.round(at * 16).astype(np.int32)], False, 0, 1, cv2.LINE_8, 4)
    field = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    field = cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / fine
    width, height = (high - low) * scale
    return Glyph(np.minimum(field, FAR), True, max(width, 1.0), max(height, 1.0), label)


def _flagged(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A 1's skeleton with a flag at its top, and sometimes a foot."""
    import cv2

    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    top, foot = (int(columns[0]), int(rows[0])), (int(columns[-1]), int(rows[-1]))
    angle = random.uniform(0.25, 1.1)
    length = random.uniform(6, 30 if angle < 0.85 else 18)
    tip = (round(top[0] - length * np.sin(angle)), round(top[1] + length * np.cos(angle)))
    mask = cv2.line(mask.copy(), top, tip, 1)
    if random.random() < 0.2:
        ends = [(foot[0] + round(step), foot[1]) for step in (-random.uniform(3, 11), 8.0)]
        mask = cv2.line(mask, ends[0], ends[1], 1)
    return _centred(mask)


def _barred(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A 7's skeleton with a bar through its stem."""
    import cv2

    row = int(random.integers(SIDE // 2 - 5, SIDE // 2 + 7))
    columns = np.flatnonzero(mask[row])
    if not len(columns):
        return mask
    reach, tilt = random.uniform(5, 12), random.integers(-3, 4)
    left = (round(columns[-1] - reach), int(row + tilt))
    right = (round(columns[-1] + reach), int(row - tilt))
    return _centred(cv2.line(mask.copy(), left, right, 1))


@functools.cache
def _letters() -> list[tuple[np.ndarray, np.ndarray]]:
    """For each font `(M, SIDE, SIDE)` masks of its letters, and their skeletons."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = []
    for name in _FONTS:
        path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
        font = ImageFont.truetype(str(path), 64)
        masks = []
        # Computer Modern has Greek letters and arrows where others have signs.
        for letter in _LETTERS if name.startswith("cm") else _LETTERS + _SIGNS:
            picture = Image.new("L", (160, 160))
            ImageDraw.Draw(picture).text((40, 30), letter, 255, font)
            masks.append(_at_digit_height(np.asarray(picture)))
        stacked = np.stack(masks)
        fonts.append((stacked, _thinned(stacked)))
    return fonts


def _at_digit_height(picture: np.ndarray) -> np.ndarray:
    """The mask of a picture's ink, scaled to the height of a digit."""
    import cv2

    left, top, width, height = cv2.boundingRect(picture)
    scale = min(HIGH / height, (SIDE - 6) / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    cut = picture[top : top + height, left : left + width]
    ink = cv2.resize(cut, size, interpolation=cv2.INTER_AREA)
    return _centred((ink > _INK).astype(np.uint8))


def _skeletons(images: np.ndarray) -> np.ndarray:
    """`(N, SIDE * SIDE / 8)` uint8: each image's skeleton, one bit per pixel."""
    parts = [np.zeros((0, SIDE * SIDE // 8), np.uint8)]
    for start in range(0, len(images), 500):  # batches that fit the processor's cache
        masks = np.stack([_centred_ink(image) for image in images[start : start + 500]])
        parts.append(np.packbits(_thinned(masks).reshape(len(masks), -1), axis=1))
    return np.concatenate(parts)


def _thinned(masks: np.ndarray) -> np.ndarray:
    """Skeletons of `(N, SIDE, SIDE)` masks (Zhang and Suen, Communications of the ACM, 1984)."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, 1:-1, 1:-1]
    while True:
        before = np.count_nonzero(inner)
        for removable in _removable():
            code = np.zeros(inner.shape, np.uint8)
            for bit, (row, column) in enumerate(_RING):
                code |= padded[:, row : row + SIDE, column : column + SIDE] << bit
            inner &= ~removable[code] & 1
        if np.count_nonzero(inner) == before:
            return inner


# The eight neighbours, clockwise from above, as offsets into a map padded by one.
_RING = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))


@functools.cache
def _removable() -> tuple[np.ndarray, np.ndarray]:
    """For each half of an iteration, which of the 256 neighbourhoods has a removable pixel."""
    codes = np.arange(256)
    up, _, right, _, down, _, left, _ = ring = [(codes >> bit) & 1 for bit in range(8)]
    edges = sum((1 - a) & b for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
    count = sum(ring)
    thin = (count >= 2) & (count <= 6) & (edges == 1)
    first = thin & (up * right * down == 0) & (right * down * left == 0)
    second = thin & (up * right * left == 0) & (up * down * left == 0)
    return first.astype(np.uint8), second.astype(np.uint8)
