"""Helpers for random draws."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """A number from `low` to `high` whose logarithm is uniform."""
    return math.exp(random.uniform(math.log(low), math.log(high)))


def weighted_choice(
    random: np.random.Generator, values: Sequence[T], probabilities: Sequence[float]
) -> T:
    """One of the values, with these probabilities, which sum to 1."""
    return values[int(np.searchsorted(np.cumsum(probabilities), random.random()))]


def noise(shape: tuple[int, ...], coarse: int, random: np.random.Generator) -> np.ndarray:
    """Normal noise of unit variance, `shape` float32, with a grain of `coarse` pixels."""
    import cv2

    height, width = shape
    small = random.standard_normal((height // coarse + 1, width // coarse + 1), np.float32)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
