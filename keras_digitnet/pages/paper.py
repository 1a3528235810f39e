"""Paper and camera: printed backgrounds, rulings, stains, light and photographic noise."""

import math

import numpy as np

from keras_digitnet.pages.chance import log_uniform, noise
from keras_digitnet.pages.ink import Box, Ink


def paper_under(
    height: int, width: int, ink: Ink, cell: Box | None, random: np.random.Generator
) -> np.ndarray:
    """`(H, W)` float32 from 0 to 1: the ink on printed and ruled paper in uneven light.

    Args:
        height: Rows, in pixels.
        width: Columns, in pixels.
        ink: The ink of the page.
        cell: The borders of a printed cell, if there is one.
        random: Generator of all random choices.
    """
    paper = np.full((height, width), random.uniform(0.5, 0.98), np.float32)
    darkness = random.uniform(0.28, 0.5) if random.random() < 0.2 else random.uniform(0.45, 0.96)
    if random.random() < 0.5:
        for _ in range(random.integers(1, 4)):  # weaker for faint ink, to keep it legible
            paper *= 1 - min(1.0, 1.4 * darkness) * _pattern(height, width, random)
    if random.random() < 0.3:
        paper *= 1 - random.uniform(0, 0.08) * np.clip(noise(paper.shape, 3, random), -2, 2)
    if random.random() < 0.12:
        stain = np.clip(noise(paper.shape, 24, random) - random.uniform(0, 1), 0, 1)
        paper *= 1 - random.uniform(0.1, 0.6) * stain
    if random.random() < 0.12:
        paper *= 1 - _blots(height, width, random)
    printed = _rulings(height, width, cell, random)
    page = paper * (1 - printed) * (1 - darkness * ink.layer)
    return page * light_on(height, width, random)


def _blots(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` darkness of round stains with soft edges."""
    import cv2

    blots = np.zeros((height, width), np.float32)
    for _ in range(random.integers(1, 4)):
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = [int(log_uniform(random, 4, 60)) for _ in range(2)]
        cv2.ellipse(blots, centre, axes, random.uniform(0, 180), 0, 360, 1.0, -1)
    return random.uniform(0.1, 0.5) * cv2.GaussianBlur(blots, (0, 0), random.uniform(1.5, 8))


def _pattern(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` darkness of a printed background of lines, wavy, round or dashed, as on cheques."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = random.uniform(-0.15, 0.15) if random.random() < 0.4 else random.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    if random.random() < 0.3:
        middle = random.uniform(-40, width + 40), random.uniform(-80, height + 80)
        across = np.hypot(x - middle[0], (y - middle[1]) * random.uniform(0.6, 1.6))
    for reach, shortest, longest in ((4, 10, 150), (1.5, 5, 40)):
        rhythm = 2 * math.pi / log_uniform(random, shortest, longest)
        across = across + random.uniform(0, reach) * np.sin(along * rhythm)
    wave = np.cos(across * 2 * math.pi / log_uniform(random, 2.2, 13))
    duty = random.uniform(-0.4, 0.85)
    lines = np.clip((wave - duty) / (1 - duty) * random.uniform(1, 3), 0, 1)
    if random.random() < 0.15:
        lines *= np.maximum(np.cos(along * 2 * math.pi / log_uniform(random, 2.5, 10)), 0)
    if random.random() < 0.4:
        fade = 0.5 + 0.5 * np.sin(along / log_uniform(random, 8, 60) + random.uniform(0, 6))
        lines *= 1 - random.uniform(0, 1) * fade
    return (random.uniform(0.03, 0.34) * lines).astype(np.float32)


def _rulings(height: int, width: int, cell: Box | None, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` darkness of printed lines: rulings, grids, and the borders of a cell."""
    import cv2

    printed = np.zeros((height, width), np.uint8)
    tilt = random.normal(0, 0.012)

    def line(at: float, across: bool, thickness: int) -> None:
        rise = (tilt + random.normal(0, 0.006)) * (width if across else height)
        ends = ((-1, at), (width, at + rise)) if across else ((at, -1), (at - rise, height))
        points = [(round(16 * x), round(16 * y)) for x, y in ends]
        cv2.line(printed, points[0], points[1], 255, thickness, cv2.LINE_AA, 4)

    for probability, across, side in ((0.3, True, height), (0.14, False, width)):
        if random.random() < probability:
            step = 1e3 if random.random() < 0.4 else log_uniform(random, 9, 70)
            thickness = 1 if random.random() < 0.7 else 2
            for at in np.arange(random.uniform(0, min(step, side)), side, step):
                line(at, across, thickness)
    if cell is not None:
        thickness = 1 if random.random() < 0.5 else int(random.integers(2, 4))
        # Adjacent cells may have separate borders.
        apart = random.uniform(2, 6) if random.random() < 0.3 else 0.0
        for index, at in enumerate(cell):
            if random.random() < 0.85:
                line(at, index % 2 == 1, thickness)
                if apart:
                    line(at + (apart if index > 1 else -apart), index % 2 == 1, thickness)
    soft = cv2.GaussianBlur(printed, (0, 0), random.uniform(0.3, 0.8)).astype(np.float32) / 255
    return soft * (random.uniform(0.08, 0.4) if random.random() < 0.4 else random.uniform(0.3, 0.9))


def light_on(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """`(H, W)` float32 light: even, falling off to one side, or with a soft or sharp shadow."""
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
        edge = 1 / (1 + np.exp(np.clip(-away / log_uniform(random, 0.4, 20), -30, 30)))
        light *= 1 - random.uniform(0.15, 0.65) * edge
    return light


def coarsened(
    image: np.ndarray, factor: float, random: np.random.Generator, binary: bool = False
) -> np.ndarray:
    """The image at a lower resolution, enlarged again; `(H, W)` float32, as the image is.

    Args:
        image: `(H, W)` float32 from 0 to 1.
        factor: The lower resolution, as a fraction of the image's.
        random: Generator of all random choices.
        binary: Whether to leave only two tones.
    """
    import cv2

    height, width = image.shape
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if binary:
        low, high = image.min(), image.max()
        image = np.where(image < low + (high - low) * random.uniform(0.4, 0.65), low, high)
    how = cv2.INTER_LINEAR if random.random() < 0.7 else cv2.INTER_NEAREST
    return cv2.resize(image, (width, height), interpolation=how)


def photographed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Simulates a camera: blur, resolution, noise, contrast, polarity and compression.

    Args:
        image: `(H, W)` float32 from 0 to 1.
        random: Generator of all random choices.

    Returns:
        `(H, W)` uint8.
    """
    import cv2

    if random.random() < 0.2:
        image = coarsened(image, random.uniform(0.4, 0.9), random)
    if random.random() < 0.7:
        blur = random.uniform(0.3, 0.7) if random.random() < 0.65 else random.uniform(0.5, 1.5)
        image = cv2.GaussianBlur(image, (0, 0), blur)
    if random.random() < 0.6:
        image = image + random.uniform(0, 0.04) * random.standard_normal(image.shape, np.float32)
    if random.random() < 0.2:
        image = image + random.uniform(0, 0.06) * noise(image.shape, 2, random)
    if random.random() < 0.2:
        image = 1 - image
    if random.random() < 0.35:
        image = 0.5 + (image - 0.5) * random.uniform(0.35, 1.2) + random.uniform(-0.2, 0.2)
    if random.random() < 0.08:  # nearly binarized, like a scan
        away = image - cv2.GaussianBlur(image, (0, 0), random.uniform(10, 30))
        level = random.uniform(0.25, 0.5) * away.min()
        image = 0.5 + random.uniform(1, 10) * (away - level) / max(float(away.std()), 0.02)
    pixels = (255 * np.clip(image, 0, 1)).astype(np.uint8)
    if random.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(25, 95))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_GRAYSCALE)
    return pixels
