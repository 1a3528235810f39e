"""What is drawn at random, beside what NumPy draws."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))


def chosen(random: np.random.Generator, values: Sequence[T], chances: Sequence[float]) -> T:
    return values[int(np.searchsorted(np.cumsum(chances), random.random()))]


def noise(shape: tuple[int, ...], coarse: int, random: np.random.Generator) -> np.ndarray:
    """`shape` float32 of unit normal noise whose grain is `coarse` pixels."""
    import cv2

    height, width = shape
    small = random.standard_normal((height // coarse + 1, width // coarse + 1), np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
