"""Random layers that redraw and corrupt images in training; for every backend."""

import functools
import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_digitnet.networks.augmentation import (
    NODES,
    RandomImageLayer,
    normal_draws,
    smooth_field,
)

_TAPS = 5  # per side of a filter
_ALL = 99.0  # logit of a tap that gets all the weight, whatever the others are


class _OfAFraction(RandomImageLayer):
    """Augments the fraction `rate` of the training images."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = rate

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomPen(_OfAFraction):
    """Redraws a fraction of the training images with a bolder, harder or softer pen.

    Blurs the image, which rounds corners and closes gaps, then thresholds it
    softly at a random level, as in scans and binarized pictures.

    Input and output: `(N, H, W, 1)` float in [0, 1].

    Args:
        rate: Fraction of the images that are redrawn, from 0 to 1.
        seed: Integer seed, or `None` for a random one.
    """

    def augment(self, images: Any) -> Any:
        draws = ops.reshape(self.draws(images, 3), (-1, 3, 1, 1, 1))
        level = 0.2 + 0.4 * draws[:, 0]
        hardness = 2.5 + 3.5 * draws[:, 1]  # of the edge; below 2.5 the paper would turn grey
        blurred = _blurred(images)
        drawn = ops.clip(0.5 + hardness * (blurred - level), 0.0, 1.0)
        return ops.where(draws[:, 2] < self.rate, drawn, images)


def _blurred(images: Any) -> Any:
    """`(N, H, W, 1)` images convolved with a Gaussian."""
    taps = ops.cast(_gaussian(), images.dtype)
    if keras.backend.backend() == "jax":
        return _shifted_sum(images, taps)
    kernel = ops.reshape(taps, (_TAPS, _TAPS, 1, 1))
    return ops.conv(images, kernel, padding="same", data_format="channels_last")


@functools.cache
def _gaussian() -> np.ndarray:
    """`(1, _TAPS**2)` weights that sum to 1, with a standard deviation of 0.8 pixels."""
    along = np.exp(-0.5 * ((np.arange(_TAPS) - _TAPS // 2) / 0.8) ** 2)
    weights = np.outer(along, along)
    return (weights / weights.sum()).astype("float32").reshape(1, -1)


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomDegradation(_OfAFraction):
    """Corrupts a fraction of the training images as pens, paper and cameras do.

    Each of these steps is applied to a chosen image with probability 1/2: a
    rotated inverted band, two rotated bars of any grey (after Random
    Erasing, Zhong et al., arXiv 1708.04896), a blur with random positive taps
    (after Xu et al., arXiv 2007.13003), noise, grey paper with less contrast,
    and a smooth bright stain.

    Input and output: `(N, H, W, 1)` float in [0, 1].

    Args:
        rate: Fraction of the images that are corrupted, from 0 to 1.
        seed: Integer seed, or `None` for a random one.
    """

    def augment(self, images: Any) -> Any:
        steps = self._steps(*images.shape[1:3])
        ranges = [each for _, of_step, _ in steps for each in of_step]
        normals = [count for *_, count in steps]
        draws = self.draws(images, 1 + len(steps) + len(ranges) + sum(normals))
        choices, even, normal = ops.split(
            draws, [1 + len(steps), 1 + len(steps) + len(ranges)], axis=1
        )
        low, high, neutral = (
            ops.convert_to_tensor(each, images.dtype) for each in zip(*ranges, strict=True)
        )
        step_of = np.repeat(np.arange(len(steps)), [len(of_step) for _, of_step, _ in steps])
        chosen = ops.take(self._chosen(choices), step_of, axis=1)
        amounts = ops.where(chosen, low + (high - low) * even, neutral)
        amounts = ops.reshape(amounts, (-1, len(ranges), 1, 1, 1))
        amounts = iter(ops.unstack(amounts, len(ranges), axis=1))
        normal = ops.split(normal_draws(normal), np.cumsum(normals[:-1]).tolist(), axis=1)
        for (step, of_step, _), numbers in zip(steps, normal, strict=True):
            images = step(images, numbers, *itertools.islice(amounts, len(of_step)))
        return ops.clip(images, 0.0, 1.0)

    def _steps(self, height: int, width: int) -> tuple[tuple[Any, Any, int], ...]:
        """Each step, the ranges of its amounts, and its number of normal samples per image.

        A range is `(lowest, highest, neutral)`. A step with neutral amounts
        leaves an image unchanged, which is cheaper than selecting afterwards.
        """
        place = (
            (0, height, 0),  # row of the centre
            (0, width, 0),  # column of the centre
            (0, math.pi, 0),  # angle
        )
        bar = (
            *place,
            (1, height / 2, 0),  # half the length
            (0.5, 3, 0),  # half the width
            (0, 1, 0),  # grey
        )
        return (
            (self._inverted_band, (*place, (1, height / 4, 0)), 0),
            (self._bar, bar, 0),
            (self._bar, bar, 0),
            (self._filter, ((0, 3, 0), (0, 0, _ALL)), _TAPS**2),
            (self._noise, ((0, 0.3, 0),), height * width),
            (self._paper, ((0, 0.5, 0), (0.25, 1, 1)), 0),
            (self._stain, ((0, 0.6, 0),), NODES**2),
        )

    def _chosen(self, choices: Any) -> Any:
        """`(N, steps)` bool, from `(N, 1 + steps)` samples: one per image, one per step."""
        return ops.logical_and(choices[:, :1] < self.rate, choices[:, 1:] < 0.5)

    # Each step takes `(N, H, W, 1)` images, `(N, count)` normal samples, `(N, 1, 1, 1)` amounts.

    def _inverted_band(
        self, images: Any, _: Any, top: Any, left: Any, angle: Any, breadth: Any
    ) -> Any:
        across, _ = _from_centre(images, top, left, angle)
        return ops.where(ops.abs(across) < breadth, 1 - images, images)

    def _bar(
        self,
        images: Any,
        _: Any,
        top: Any,
        left: Any,
        angle: Any,
        length: Any,
        breadth: Any,
        grey: Any,
    ) -> Any:
        across, along = _from_centre(images, top, left, angle)
        inside = ops.logical_and(ops.abs(along) < length, ops.abs(across) < breadth)
        return ops.where(inside, grey, images)

    def _filter(self, images: Any, normal: Any, sharpness: Any, middle: Any) -> Any:
        only_middle = np.arange(_TAPS**2) == _TAPS**2 // 2
        logits = ops.reshape(sharpness, (-1, 1)) * normal
        logits = logits + ops.reshape(middle, (-1, 1)) * ops.cast(only_middle, images.dtype)
        return _filtered(images, ops.softmax(logits))

    def _noise(self, images: Any, normal: Any, amount: Any) -> Any:
        return images + amount * ops.reshape(normal, ops.shape(images))

    def _paper(self, images: Any, _: Any, black: Any, contrast: Any) -> Any:
        return black + contrast * (1 - black) * images

    def _stain(self, images: Any, normal: Any, amount: Any) -> Any:
        field = smooth_field(normal, *images.shape[1:3])
        return images + amount * ops.sigmoid(2 * ops.reshape(field, ops.shape(images)))


def _from_centre(images: Any, top: Any, left: Any, angle: Any) -> tuple[Any, Any]:
    """Each pixel's distances across and along a line through a centre, in pixels."""
    height, width = images.shape[1:3]
    down = ops.arange(height, dtype=images.dtype)[:, None, None] - top
    right = ops.arange(width, dtype=images.dtype)[:, None] - left
    cosine, sine = ops.cos(angle), ops.sin(angle)
    return right * cosine - down * sine, down * cosine + right * sine


def _shifted_sum(images: Any, taps: Any) -> Any:
    """`_filtered` for XLA, which fuses it into one loop; its depthwise convolutions are slow."""
    height, width = images.shape[1:3]
    edge = _TAPS // 2
    padded = ops.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    taps = ops.reshape(taps, (-1, 1, 1, _TAPS**2))
    return sum(
        padded[:, top : top + height, left : left + width]
        * taps[..., top * _TAPS + left : top * _TAPS + left + 1]
        for top in range(_TAPS)
        for left in range(_TAPS)
    )


def _filtered(images: Any, taps: Any) -> Any:
    """`(N, H, W, 1)`: each image convolved with its own filter, `(N, _TAPS**2)`."""
    if keras.backend.backend() == "jax":
        return _shifted_sum(images, taps)
    # With the images as channels, one operation replaces 75.
    channels = ops.transpose(images, (3, 1, 2, 0))
    kernel = ops.reshape(ops.transpose(taps), (_TAPS, _TAPS, -1, 1))
    filtered = ops.depthwise_conv(channels, kernel, padding="same", data_format="channels_last")
    return ops.transpose(filtered, (3, 1, 2, 0))
