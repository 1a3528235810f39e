"""Synthetic pages without digits, to measure false detections."""

import math

import cv2
import numpy as np

# Letters that do not look like digits.
LETTERS = "AaCcEeFfHhJjKkMmNnPpRrTtUuVvWwXxYy"
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)


def page_without_digits(random: np.random.Generator) -> np.ndarray:
    """Composes a page without digits, `(H, W)` uint8.

    It may have shading, shadows, rulings, cell borders, stains, scribbles and
    words of letters that do not look like digits. There are no isolated
    strokes or rings, which could be read as 1 or 0.
    """
    height, width = int(random.integers(48, 300)), int(random.integers(48, 500))
    page = np.full((height, width), random.integers(120, 250), np.uint8)
    for draw in (_shade, _shadow, _rulings, _borders, _stain, _words, _scribble):
        if random.random() < 0.35:
            page = draw(page, random)
    if random.random() < 0.2:
        page = 255 - page
    blurred = cv2.GaussianBlur(page.astype(np.float32), (0, 0), random.uniform(0.3, 1.2))
    page = blurred + random.normal(0, random.uniform(0, 8), page.shape)
    return np.clip(page, 0, 255).astype(np.uint8)


def _shade(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    y, x = np.indices(page.shape) / max(page.shape)
    return (page * (1 - random.uniform(0, 0.4) * x - random.uniform(0, 0.4) * y)).astype(np.uint8)


def _shadow(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    y, x = np.indices(page.shape) / max(page.shape)
    angle = random.uniform(0, 2 * math.pi)
    edge = (x - random.uniform(0, 1)) * math.cos(angle) + (y - random.uniform(0, 1)) * math.sin(
        angle
    )
    depth = random.uniform(0.2, 0.6)
    dark = 1 / (1 + np.exp(-edge / random.choice([0.004, 0.03])))
    return (page * (1 - depth * dark)).astype(np.uint8)


def _rulings(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    tone, step = float(page.mean() * random.uniform(0.3, 0.9)), int(random.integers(12, 80))
    height, width = page.shape
    for row in range(int(random.integers(step)), height, step):
        cv2.line(page, (0, row), (width, row + int(random.integers(-2, 3))), tone, 1, cv2.LINE_AA)
    if random.random() < 0.4:
        for column in range(int(random.integers(step)), width, step):
            cv2.line(page, (column, 0), (column, height), tone, 1, cv2.LINE_AA)
    return page


def _borders(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws the borders of two cells, some along the picture's edge."""
    height, width = page.shape
    tone, thick = float(page.mean() * random.uniform(0.1, 0.6)), int(random.integers(1, 5))
    left, top = int(random.integers(0, width // 4)), int(random.integers(0, height // 4))
    right, bottom = width - int(random.integers(0, width // 4)), height - top
    cv2.rectangle(page, (left, top), (right, bottom), tone, thick)
    middle = int(random.integers(left, right))
    cv2.line(page, (middle, top), (middle, bottom), tone, thick)
    return page


def _stain(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    blots = np.zeros(page.shape, np.float32)
    for _ in range(random.integers(1, 4)):
        centre = [int(random.integers(side)) for side in page.shape[::-1]]
        axes = [int(random.integers(10, 70)) for _ in range(2)]
        cv2.ellipse(blots, centre, axes, float(random.integers(180)), 0, 360, 1.0, -1)
    blots = cv2.GaussianBlur(blots, (0, 0), random.uniform(3, 12))
    return (page * (1 - random.uniform(0.1, 0.5) * blots)).astype(np.uint8)


def _words(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    tone = float(page.mean() * random.uniform(0.1, 0.6))
    for _ in range(random.integers(1, 5)):
        text = "".join(random.choice(list(LETTERS), random.integers(3, 9)))
        at = (
            int(random.integers(-20, page.shape[1])),
            int(random.integers(10, page.shape[0] + 10)),
        )
        font, size = int(random.choice(FONTS)), random.uniform(0.4, 2)
        cv2.putText(page, text, at, font, size, tone, int(random.integers(1, 4)), cv2.LINE_AA)
    return page


def _scribble(page: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws a zigzag."""
    tone = float(page.mean() * random.uniform(0.1, 0.6))
    side = min(page.shape)
    centre = np.array([random.uniform(0, length) for length in page.shape[::-1]])
    points = centre + random.uniform(-0.5, 0.5, (int(random.integers(9, 20)), 2)) * side
    path = np.round(16 * points).astype(np.int32)
    cv2.polylines(page, [path], False, tone, int(random.integers(1, 5)), cv2.LINE_AA, 4)
    return page
