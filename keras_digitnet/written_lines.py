"""Synthetic lines of held-out characters, on which readers are evaluated.

They are composed independently of the pages on which readers are trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from keras_digitnet.data import Split
from keras_digitnet.evaluation import LinesReport, edit_distance, evaluate_lines
from keras_digitnet.reading.finding import Character, Reader, in_lines


@dataclass(frozen=True)
class WrittenLine:
    """A picture of a line of characters.

    Attributes:
        picture: `(H, W)` uint8.
        labels: The characters' labels, from left to right.
        boxes: `(N, 4)` float, left, top, right and bottom of each character, in
            pixels.
    """

    picture: np.ndarray
    labels: tuple[int, ...]
    boxes: np.ndarray


@dataclass(frozen=True)
class LinesRead:
    """Lines, and what a reader found in each.

    Attributes:
        lines: The lines.
        found: The characters found in each line, in reading order.
        classes: The class names.
    """

    lines: tuple[WrittenLine, ...]
    found: tuple[tuple[Character, ...], ...]
    classes: tuple[str, ...]

    @property
    def answers(self) -> list[tuple[int, ...]]:
        """The predicted labels of each line."""
        return [tuple(int(c.probabilities.argmax()) for c in each) for each in self.found]

    @property
    def report(self) -> LinesReport:
        """The reader's metrics on the lines."""
        boxes = [np.array([c.box for c in each]).reshape(-1, 4) for each in self.found]
        truths = [line.labels for line in self.lines]
        return evaluate_lines(self.answers, truths, boxes, [line.boxes for line in self.lines])

    def mistakes(self) -> list[tuple[np.ndarray, str, str]]:
        """Picture, true text and read text of the misread lines, the largest errors first."""

        def text(labels: Sequence[int]) -> str:
            return "".join(self.classes[label] for label in labels)

        pairs = list(zip(self.lines, self.answers, strict=True))
        wrong = [(edit_distance(answer, line.labels), line, answer) for line, answer in pairs]
        wrong = sorted((each for each in wrong if each[0]), key=lambda each: -each[0])
        return [(line.picture, text(line.labels), text(answer)) for _, line, answer in wrong]


def read_lines(reader: Reader, characters: Split, count: int, seed: int = 0) -> LinesRead:
    """Composes lines and reads them.

    Args:
        reader: Reads the lines.
        characters: Images in MNIST's form.
        count: Number of lines.
        seed: The same seed gives the same lines.
    """
    random = np.random.default_rng(seed)
    lines = tuple(write_line(characters, random) for _ in range(count))
    found = tuple(tuple(chain(*in_lines(reader.find(line.picture)))) for line in lines)
    return LinesRead(lines, found, reader.classes)


def write_line(characters: Split, random: np.random.Generator) -> WrittenLine:
    """Composes a picture of 1 to 12 characters in a row.

    Size, spacing, shear, paper, shadow and noise are random.

    Args:
        characters: Images in MNIST's form.
        random: Generator of all random choices.
    """
    chosen = random.integers(0, len(characters), random.integers(1, 13))
    height = int(random.integers(28, 80))
    gap = random.uniform(0.05, 0.5)
    shear = random.uniform(-0.3, 0.3)
    inks = [
        _written(characters.images[index, ..., 0], height, random.uniform(0.85, 1.15), shear)
        for index in chosen
    ]
    gaps = [max(2, round(height * gap * random.uniform(0.6, 1.4))) for _ in inks]
    margin = round(height * random.uniform(0.3, 1.0))
    width = sum(ink.shape[1] for ink in inks) + sum(gaps) + 2 * margin
    line = np.zeros((round(1.5 * height) + 2 * margin, width), np.float32)
    left = margin
    boxes = []
    for ink, space in zip(inks, gaps, strict=True):
        top = margin + round((1.5 * height - ink.shape[0]) / 2 + height * random.uniform(-0.1, 0.1))
        line[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        boxes.append((left, top, left + ink.shape[1], top + ink.shape[0]))
        left += ink.shape[1] + space
    labels = tuple(int(characters.labels[index]) for index in chosen)
    return WrittenLine(_photographed(line, random), labels, np.array(boxes, float))


def _written(digit: np.ndarray, height: int, size: float, shear: float) -> np.ndarray:
    """The character's ink, from 0 to 1, sheared and cropped, about `height` pixels high."""
    import cv2

    scale = size * height / 20
    side = round(28 * scale * 1.5)
    matrix = np.array(
        [
            [scale, shear * scale, side / 2 - 14 * scale * (1 + shear)],
            [0, scale, side / 2 - 14 * scale],
        ],
    )
    ink = cv2.warpAffine(digit, matrix, (side, side), flags=cv2.INTER_CUBIC) / np.float32(255)
    left, top, width, tall = cv2.boundingRect((ink > 0.3).astype(np.uint8))
    return np.clip(ink[top : top + tall, left : left + width], 0, 1)


def _photographed(line: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Simulates paper or a blackboard, uneven light and a camera: `(H, W)` uint8."""
    import cv2

    height, width = line.shape
    y, x = np.indices(line.shape, np.float32) / max(height, width)
    light = 1 - random.uniform(0, 0.3) * x - random.uniform(0, 0.3) * y
    if random.random() < 0.5:
        angle = random.uniform(0, 2 * np.pi)
        edge = (x - 0.5 * width / max(height, width)) * np.cos(angle) + y * np.sin(angle)
        light *= 1 - random.uniform(0.2, 0.5) / (1 + np.exp(-edge / random.choice([0.01, 0.1])))
    picture = random.uniform(170, 245) * (1 - random.uniform(0.35, 0.9) * line) * light
    if random.random() < 0.15:
        picture = 255 - picture
    picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 1.2))
    picture += random.normal(0, random.uniform(0, 8), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)
