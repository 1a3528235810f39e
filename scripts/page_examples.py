"""Writes the example pictures of the web page, in keras_digitnet/demo/examples.

    python scripts/page_examples.py --data mnist

The digits are MNIST training digits whose skeletons are redrawn with other pens, as on the reader's
training pages, on typical kinds of paper. The pictures are deterministic.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from keras_digitnet.data import load_dataset
from keras_digitnet.pages.glyphs import HIGH, SIDE, GlyphSource

FOLDER = Path(__file__).parents[1] / "keras_digitnet" / "demo" / "examples"
SEED = 13
DIGITS = 1000  # number of training digits to choose from
QUALITY = 80
_SMOOTH = 1.2  # blur that removes staircases, in pixels of a glyph's field

Colour = tuple[int, int, int]  # red, green, blue


class Sheet:
    """Paper of one colour, to print and write on.

    Args:
        height: Rows, in pixels.
        width: Columns, in pixels.
        paper: The paper's colour.
        source: Draws the digits.

    Attributes:
        pixels: `(H, W, 3)` float32, red, green and blue.
    """

    def __init__(self, height: int, width: int, paper: Colour, source: GlyphSource) -> None:
        self.random = np.random.default_rng(SEED)
        self.pixels = np.ones((height, width, 3), np.float32) * np.array(paper, np.float32)
        self._source = source

    def cover(self, ink: np.ndarray, colour: Colour) -> None:
        """Blends ink into the paper; `ink` is `(H, W)` opacity from 0 to 1."""
        self.pixels += ink[..., None] * (np.array(colour, np.float32) - self.pixels)

    def line(
        self, start: tuple[int, int], end: tuple[int, int], width: int, colour: Colour
    ) -> None:
        ink = np.zeros(self.pixels.shape[:2], np.float32)
        cv2.line(ink, start, end, 1.0, width, cv2.LINE_AA)
        self.cover(ink, colour)

    def print_text(self, text: str, at: tuple[int, int], size: float, colour: Colour) -> None:
        ink = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.putText(ink, text, at, cv2.FONT_HERSHEY_DUPLEX, size, 255, 1, cv2.LINE_AA)
        self.cover(ink.astype(np.float32) / 255, colour)

    def write(
        self, text: str, at: tuple[float, float], height: float, pen: float, colour: Colour
    ) -> None:
        """Writes digits from left to right; a space leaves a gap.

        Args:
            text: Digits and spaces.
            at: Left side and vertical centre of the line, in pixels.
            height: Height of a digit, in pixels.
            pen: Stroke width, in pixels.
            colour: Colour of the ink.
        """
        left, middle = at
        ink = np.zeros(self.pixels.shape[:2], np.float32)
        shear = self.random.normal(0.05, 0.04)
        for character in text:
            if character == " ":
                left += 0.5 * height
                continue
            glyph = self._source.path(self.random, int(character))
            scale = height * self.random.lognormal(0, 0.05) / max(glyph.height, 0.6 * HIGH)
            row = middle + self.random.normal(0, 0.04) * height
            column = left + glyph.width * scale / 2
            shape = np.array([[scale, -shear * scale], [0, scale]])
            centre = np.array([column, row]) - shape @ [SIDE / 2, SIDE / 2]
            field = cv2.warpAffine(
                cv2.GaussianBlur(glyph.field, (0, 0), _SMOOTH) - _SMOOTH / 2,
                np.column_stack([shape, centre]),
                ink.shape[::-1],
                flags=cv2.INTER_CUBIC,
                borderValue=float(SIDE),
            )
            np.maximum(ink, np.clip((pen / 2 - field * scale) / 1.2 + 0.5, 0, 1), out=ink)
            left += glyph.width * scale + (0.22 + 0.05 * self.random.standard_normal()) * height
        self.cover(ink * self.random.uniform(0.85, 0.95), colour)

    def photographed(self) -> np.ndarray:
        """`(H, W, 3)` uint8: the sheet in uneven light, slightly out of focus, with noise."""
        height, width, _ = self.pixels.shape
        y, x = np.mgrid[:height, :width].astype(np.float32)
        light = 1.03 - 0.2 * (x / width) * (0.4 + y / height)
        image = cv2.GaussianBlur(self.pixels * light[..., None], (0, 0), 0.7)
        noise = cv2.GaussianBlur(self.random.normal(0, 5, (height, width)), (0, 0), 0.8)
        return np.clip(image + noise[..., None], 0, 255).astype(np.uint8)


def cheque(sheet: Sheet) -> None:
    """1250 in blue ink in the amount box, on a guilloche."""
    height, width, _ = sheet.pixels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for bend in (1, -1):
        wave = np.cos((y + bend * 14 * np.sin(x / 38)) * 0.62)
        sheet.cover(0.35 * np.clip(wave, 0, 1).astype(np.float32), (176, 205, 190))
    sheet.print_text("PAY", (16, 34), 0.5, (70, 90, 80))
    sheet.line((58, 36), (width - 20, 36), 1, (70, 90, 80))
    cv2.rectangle(sheet.pixels, (120, 56), (width - 18, 134), (248, 250, 246), -1)
    cv2.rectangle(sheet.pixels, (120, 56), (width - 18, 134), (80, 105, 92), 1)
    sheet.write("1250", (178, 96), 46, 3.4, (24, 42, 120))


def cells(sheet: Sheet) -> None:
    """Two rows of a table, one number per cell, in pencil."""
    height, width, _ = sheet.pixels.shape
    for column in range(12, width, 128):
        sheet.line((column, 10), (column, height - 12), 1, (120, 120, 126))
    for row in (10, 86, 162):
        sheet.line((12, row), (396, row), 1, (120, 120, 126))
    for index, text in enumerate(("38", "104", "62", "75", "9", "216")):
        at = (32 + 128 * (index % 3), 49 + 76 * (index // 3))
        sheet.write(text, at, 32, 2.6, (74, 74, 80))


def lines(sheet: Sheet) -> None:
    """Two numbers on ruled paper, in black."""
    height, width, _ = sheet.pixels.shape
    for row in range(32, height, 46):
        sheet.line((0, row), (width, row - 3), 1, (150, 178, 214))
    sheet.line((44, 0), (41, height), 1, (226, 140, 140))
    sheet.write("20743", (70, 58), 34, 2.8, (30, 30, 36))
    sheet.write("8506", (74, 150), 34, 2.8, (30, 30, 36))


def blackboard(sheet: Sheet) -> None:
    """364 in chalk."""
    height, width, _ = sheet.pixels.shape
    smear = cv2.GaussianBlur(sheet.random.normal(0, 1, (height, width)), (0, 0), 26)
    sheet.cover(np.clip(2.2 * smear, 0, 0.16).astype(np.float32), (214, 222, 216))
    sheet.write("364", (66, 92), 92, 7.0, (236, 238, 230))
    grain = cv2.GaussianBlur(sheet.random.normal(0, 1, (height, width)), (0, 0), 0.9)
    sheet.cover(np.clip(0.7 * grain, 0, 0.4).astype(np.float32), (44, 66, 56))


PICTURES: dict[str, tuple[Callable[[Sheet], None], tuple[int, int], Colour]] = {
    "cheque": (cheque, (150, 400), (226, 236, 228)),
    "cells": (cells, (174, 408), (247, 246, 240)),
    "lines": (lines, (196, 380), (250, 249, 244)),
    "blackboard": (blackboard, (184, 380), (40, 62, 52)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default="mnist", help="as for keras-digitnet train")
    dataset = load_dataset(parser.parse_args().data)
    some = dataset.train[:DIGITS]
    source = GlyphSource(some.images, some.labels, dataset.classes)
    FOLDER.mkdir(exist_ok=True)
    for name, (draw, shape, paper) in PICTURES.items():
        sheet = Sheet(*shape, paper, source)
        draw(sheet)
        image = cv2.cvtColor(sheet.photographed(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(FOLDER / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
