"""Composes pages: lines of characters and clutter, ink, paper and camera."""

from dataclasses import replace

import numpy as np

from keras_digitnet.pages.chance import log_uniform, weighted_choice
from keras_digitnet.pages.frame import LARGE, Page, around, framed
from keras_digitnet.pages.glyphs import HIGH, Glyph, GlyphSource
from keras_digitnet.pages.ink import Box, Handwriting, Ink, rub
from keras_digitnet.pages.paper import coarsened, paper_under, photographed
from keras_digitnet.pages.strokes import smooth
from keras_digitnet.pages.text import Text, amount, any_text


class Composer:
    """Composes pages of one shape.

    Args:
        source: Draws the characters.
        shape: Rows and columns of a page, in pixels.
        num_classes: Number of classes; labels are drawn uniformly.
    """

    def __init__(self, source: GlyphSource, shape: tuple[int, int], num_classes: int) -> None:
        self._source = source
        self._height, self._width = shape
        self._classes = num_classes

    def compose(self, random: np.random.Generator) -> Page:
        """Composes one page; it depends on `random` alone."""
        if random.random() < 0.12:
            return self._compose_lone(random)
        ink = Ink(self._height, self._width)
        kind = random.random()
        empty = kind < 0.22  # without target characters
        if kind < 0.05:
            self._write_large(ink, random)
        lines = 0 if kind < 0.1 else weighted_choice(random, (1, 2, 3), (0.56, 0.26, 0.18))
        for line in range(lines):
            hand = self._handwriting(random, line, lines)
            self._write_line(ink, hand, random, words=empty or random.random() < 0.06)
        if random.random() < 0.12:
            self._print_word(ink, random)
        if random.random() < (0.5 if empty else 0.25):
            self._scatter(ink, random)
        for _ in range(int(random.integers(0, 5)) if empty else int(random.random() < 0.14)):
            self._scribble(ink, random)
        if random.random() < 0.25:
            rub(ink.layer, random)
        cell = None
        if random.random() < 0.4:
            cell = around(ink, self._height, self._width, random)
        image = paper_under(self._height, self._width, ink, cell, random)
        image = photographed(image, random)
        return framed(image, ink, cell, random)

    def _compose_lone(self, random: np.random.Generator) -> Page:
        """Composes a page of one character, often cut out and scanned coarsely, as forms are."""
        ink = Ink(self._height, self._width)
        height = log_uniform(random, 12, 40)
        hand = replace(
            self._handwriting(random, 0, 1),
            height=height,
            left=random.uniform(2, self._width - 1.5 * height),
            middle=random.uniform(height / 2, self._height - height / 2),
            stretch=log_uniform(random, 0.7, 1.8),
            pen=log_uniform(random, 0.03, 0.16),
            outline_growth=random.uniform(-0.3, 1.6),
        )
        if random.random() < 0.15:
            glyph = self._source.letter(random, self._source.font(random))
        else:
            glyph = hand.draw(random, int(random.integers(self._classes)))
        box = self._write(ink, glyph, hand, hand.left, 1.0, 0.0, random)
        image = paper_under(self._height, self._width, ink, None, random)
        if random.random() < 0.5:
            factor = min(random.uniform(7, 20) / height, 1)
            image = coarsened(image, factor, random, binary=random.random() < 0.6)
        image = photographed(image, random)
        return framed(image, ink, None, random, box if random.random() < 0.6 else None)

    def _handwriting(self, random: np.random.Generator, line: int, lines: int) -> Handwriting:
        share = self._height / lines
        low, high = (12, 0.86 * share) if lines == 1 else (11.5, min(1.15 * share, 22))
        height = log_uniform(random, low, high)
        if random.random() < 0.03:
            height = random.uniform(4, 8)
        spare = max(share - height, 0) / 2 + 0.1 * height
        long = random.random() < 0.8
        return Handwriting(
            draw=weighted_choice(
                random,
                (self._source.outline, self._source.path, self._source.styled, self._any),
                (0.24, 0.24, 0.3, 0.22),
            ),
            height=height,
            left=random.uniform(-8, 40) if long else random.uniform(-8, 0.85 * self._width),
            middle=share * (line + 0.5) + random.uniform(-spare, spare),
            slope=random.normal(0, 0.03),
            shear=0.0
            if random.random() < 0.2
            else float(np.clip(random.normal(0.1, 0.23), -0.5, 0.75)),
            stretch=float(np.clip(random.lognormal(0.03, 0.17), 0.65, 1.6)),
            pen=log_uniform(random, 0.026, 0.1),
            outline_growth=random.uniform(-0.3, 0.5),
            edge_width=random.uniform(0.7, 1.6),
            darkness=random.uniform(0.5, 1) if random.random() < 0.3 else random.uniform(0.75, 1),
            gap=weighted_choice(
                random,
                (random.uniform(-0.12, 0.06), random.uniform(0.04, 0.35), random.uniform(0.3, 1.1)),
                (0.3, 0.55, 0.15),
            ),
            gap_std=0.18 if random.random() < 0.3 else 0.07,
            log_height_std=0.2 if random.random() < 0.3 else 0.06,
            clutter_rate=0.22 if random.random() < 0.45 else 0.03,
            starts_with_mark=random.random() < 0.12,
            ends_with_mark=random.random() < 0.5,
            separator_rate=0.25 if random.random() < 0.3 else 0.0,
            max_characters=weighted_choice(
                random, (1, int(random.integers(1, 9)), 20), (0.05, 0.4, 0.55)
            ),
            bend=log_uniform(random, 0.25, 1.2),
        )

    def _any(self, random: np.random.Generator, label: int) -> Glyph:
        source = self._source
        draw = (source.outline, source.path, source.styled)[random.integers(3)]
        return draw(random, label)

    def _write_line(
        self, ink: Ink, hand: Handwriting, random: np.random.Generator, words: bool
    ) -> None:
        text = self._text(hand, random)
        font = self._source.font(random)
        joined = random.random() < 0.1
        at, before = hand.left, None
        for place, label in enumerate(text.labels):
            if at > self._width + 4:
                break
            if words:
                glyph = self._source.letter(random, font)
            elif hand.marks(place, len(text.labels)):
                glyph = self._source.mark(random)
            elif place and random.random() < hand.separator_rate:
                glyph = self._source.separator(random)
            elif random.random() < hand.clutter_rate:
                glyph = self._source.clutter(random)
            else:
                glyph = hand.draw(random, int(label))
            size, shift = _size(glyph, text, hand, random)
            box = self._write(ink, glyph, hand, at, size, shift, random)
            linked = text.links(place)
            if before is not None and (linked or (joined and random.random() < 0.7)):
                ink.join(before, box, hand, random, at_top=linked)
            before = box
            gap = text.gap(place, hand.gap) + random.normal(0, hand.gap_std)
            if random.random() < 0.05:
                gap += random.uniform(0.3, 1.5)
            width = box[2] - box[0]
            at += width + max(gap * hand.height, -0.25 * width)

    def _text(self, hand: Handwriting, random: np.random.Generator) -> Text:
        if self._source.digits_only and hand.max_characters > 1 and random.random() < 0.3:
            return amount(random)
        return any_text(random, hand.max_characters, self._classes)

    def _write(
        self,
        ink: Ink,
        glyph: Glyph,
        hand: Handwriting,
        at: float,
        size: float,
        shift: float,
        random: np.random.Generator,
    ) -> Box:
        """Draws a glyph whose left edge is at `at`; returns its box."""
        own = glyph.height if glyph.label >= 0 else HIGH
        # A character that is small in the data set, such as a dash-like 1, stays small.
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
            hand.darkness * random.uniform(0.85, 1),
            random,
        )

    def _write_large(self, ink: Ink, random: np.random.Generator) -> None:
        """Draws a character or letter too large for this scale, which is read at another."""
        height = random.uniform(LARGE, 4 * self._height)
        hand = replace(
            self._handwriting(random, 0, 1),
            height=height,
            middle=random.uniform(-0.2, 1.2) * self._height,
            left=random.uniform(-0.5 * height, self._width),
            pen=random.uniform(0.03, 0.09),
        )
        if random.random() < 0.4:
            glyph = self._source.letter(random, self._source.font(random))
        else:
            glyph = hand.draw(random, int(random.integers(self._classes)))
        self._write(ink, glyph, hand, hand.left, 1.0, 0.0, random)

    def _print_word(self, ink: Ink, random: np.random.Generator) -> None:
        """Prints a word beside the characters, or nothing where they are."""
        height = log_uniform(random, 5, 24)
        left = random.uniform(-20, self._width - height)
        middle = random.uniform(0, self._height)
        count = int(random.integers(2, 9))
        area = (left - 2, middle - height, left + 0.9 * count * height, middle + height)
        if not ink.meets(area):
            hand = replace(
                self._handwriting(random, 0, 1),
                height=height,
                left=left,
                middle=middle,
                gap=random.uniform(0.03, 0.12),
                gap_std=0.0,
                max_characters=count,
            )
            self._write_line(ink, hand, random, words=True)

    def _scatter(self, ink: Ink, random: np.random.Generator) -> None:
        """Draws letters and marks outside characters, and faint ones anywhere."""
        for _ in range(random.integers(1, 7)):
            height = log_uniform(random, 6, self._height)
            hand = replace(
                self._handwriting(random, 0, 1),
                height=height,
                middle=random.uniform(0, self._height),
                left=random.uniform(-10, self._width),
                darkness=random.uniform(0.06, 0.3)
                if random.random() < 0.5
                else random.uniform(0.4, 1),
            )
            glyph = self._source.clutter(random)
            reach = (
                hand.left - 2,
                hand.middle - height,
                hand.left + 1.5 * height,
                hand.middle + height,
            )
            if hand.darkness < 0.3 or not ink.meets(reach):
                self._write(ink, glyph, hand, hand.left, 1.0, 0.0, random)

    def _scribble(self, ink: Ink, random: np.random.Generator) -> None:
        """Draws a zigzag or a curved scribble, away from characters."""
        side = log_uniform(random, 10, 3 * self._height)
        middle = np.array([random.uniform(0, self._width), random.uniform(0, self._height)])
        if ink.meets((*(middle - side / 2), *(middle + side / 2))):
            return
        points = middle + random.uniform(-0.5, 0.5, (int(random.integers(4, 20)), 2)) * side
        path = smooth(points) if random.random() < 0.5 else points
        ink.stroke(path, int(random.integers(1, 5)), random.uniform(0.4, 1))


def _size(
    glyph: Glyph, text: Text, hand: Handwriting, random: np.random.Generator
) -> tuple[float, float]:
    """The size of a glyph in its line, and how far it is below the middle, in line heights."""
    size = float(np.clip(random.lognormal(0, hand.log_height_std), 0.55, 1.4))
    shift = random.normal(0, 0.05)
    if glyph.label >= 0:
        factor = random.uniform(*text.sizes[glyph.label])
        size *= factor
        if factor < 1:
            shift += (0.5 if text.on_baseline else random.uniform(-0.5, 0.5)) * (1 - size)
    elif glyph.height < 0.35 * HIGH:
        # On the baseline in a hand with separators, otherwise at any height.
        shift += random.uniform(0.35 if hand.separator_rate else -0.5, 0.55)
    return size, shift
