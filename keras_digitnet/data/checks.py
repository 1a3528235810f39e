"""Checks images and labels, brings images into MNIST's form and numbers the classes."""

import dataclasses
import logging

import numpy as np

from keras_digitnet.config import SIDE
from keras_digitnet.data.files import as_text, listed, natural_sort_key
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.mnist_form import is_light_on_dark, is_normalized

logger = logging.getLogger(__name__)

# uint8 images reach 255; a set whose maximum is below this has a range such as 0 to 1 or 0 to 16.
_LOWEST_WHITE = 64
# About so many images of a split are sampled. The split is dark on light if at least the fraction
# `_MOSTLY` of the sample is; if only some of it is, but more than `_FEW`, that is reported.
_SAMPLED = 200
_MOSTLY = 0.75
_FEW = 0.05

_SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def checked(found: Source) -> Source:
    """The source with images as `(N, 28, 28, 1)` uint8 and labels as int64 or text.

    Raises:
        DigitNetError: Their shape, type or range does not allow it.
    """
    parts = {
        name: _checked(part, f"{found.source}: {_SPLIT_NAMES[name]} set")
        for name, part in found.splits.items()
    }
    return dataclasses.replace(found, splits=parts)


def _checked(split: Split, where: str) -> Split:
    return Split(_checked_images(split.images, where), _checked_labels(split, where))


def _checked_images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
        raise DigitNetError(
            f"{where}: expected images of shape (N, 28, 28), N at least 1; "
            f"received: {images.shape}."
        )
    if images.dtype.kind in "bf":
        images = _whole_numbers(images, where)
    if images.dtype.kind not in "iu":
        raise DigitNetError(
            f"{where}: expected whole numbers from 0 to 255 (uint8); received: {images.dtype}."
        )
    if images.dtype != np.uint8:
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise DigitNetError(
                f"{where}: expected values from 0 to 255; received: {low} to {high}."
            )
        images = images.astype(np.uint8)
    return np.ascontiguousarray(images)[..., None]


def _whole_numbers(images: np.ndarray, where: str) -> np.ndarray:
    """Floats and booleans as whole numbers: those from 0 to 1 are scaled to 255."""
    if not np.isfinite(images).all():
        raise DigitNetError(
            f"{where}: expected whole numbers from 0 to 255 (uint8); "
            f"received: {images.dtype} with NaN or infinity."
        )
    if images.min() >= 0 and images.max() <= 1:
        return np.round(images * 255.0).astype(np.uint8)
    if not (images == np.round(images)).all():
        raise DigitNetError(
            f"{where}: expected whole numbers from 0 to 255, or fractions from 0 to 1; "
            f"received: fractions from {images.min():g} to {images.max():g}."
        )
    return images.astype(np.int64)


def _checked_labels(split: Split, where: str) -> np.ndarray:
    labels = split.labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DigitNetError(
            f"{where}: expected labels of shape (N,) in whole numbers; "
            f"received: {labels.dtype} {labels.shape}."
        )
    if len(labels) != len(split.images):
        raise DigitNetError(
            f"{where}: expected as many labels as images ({len(split.images)}); "
            f"received: {len(labels)}."
        )
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def in_mnist_form(found: Source) -> Source:
    """The checked source with images light on dark and up to 255.

    The arrays of a split are scaled and inverted as a whole, never image by
    image. Whether an image is dark on light is decided by the function that
    `predict` uses.
    """
    if found.in_mnist_form:
        return found
    splits = {}
    for name, part in found.splits.items():
        where = f"{found.source}: {_SPLIT_NAMES[name]} set"
        splits[name] = Split(_light_on_dark(_up_to_255(part.images, where), where), part.labels)
    _warn_of_another_form(splits["train"].images, found.source)
    return dataclasses.replace(found, splits=splits)


def _warn_of_another_form(images: np.ndarray, where: str) -> None:
    sample = _sampled(images)
    others = sum(not is_normalized(image) for image in sample)
    if others > (1 - _MOSTLY) * len(sample):
        logger.warning(
            "%s: %d of %d sampled images are not centred by mass like MNIST's. `predict` would "
            "centre and scale them, unless it is given --raw.",
            where,
            others,
            len(sample),
        )


def _sampled(images: np.ndarray) -> np.ndarray:
    return images[:: max(1, len(images) // _SAMPLED), ..., 0]


def _up_to_255(images: np.ndarray, where: str) -> np.ndarray:
    white = int(images.max())
    if not 0 < white < _LOWEST_WHITE:
        return images
    logger.warning("%s: values from 0 to %d; scaled to 255.", where, white)
    return np.round(images * (255 / white)).astype(np.uint8)


def _light_on_dark(images: np.ndarray, where: str) -> np.ndarray:
    sample = _sampled(images)
    dark = sum(not is_light_on_dark(image) for image in sample)
    if dark >= _MOSTLY * len(sample):
        logger.warning(
            "%s: dark on light in %d of %d sampled images; all are inverted, as predict does.",
            where,
            dark,
            len(sample),
        )
        return 255 - images
    if dark > _FEW * len(sample):
        logger.warning(
            "%s: %d of %d sampled images are dark on light and the others light on dark; none is "
            "inverted. Pictures in class folders would be inverted one by one.",
            where,
            dark,
            len(sample),
        )
    return images


def number_classes(found: Source) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The class names, and the splits with class indices as labels.

    Raises:
        DigitNetError: There is only one class, numbers have gaps, or another
            split has a class that the training split lacks.
    """
    values = np.unique(found.splits["train"].labels)
    if values.dtype.kind == "U":
        values = np.array(sorted(values.tolist(), key=natural_sort_key))
        usable, expected = len(values) > 1 and "" not in values, "two names or more, none empty"
    else:
        first = int(values[0])
        usable = first in (0, 1) and len(values) > 1 and values[-1] == first + len(values) - 1
        expected = "two or more, from 0 or 1 on without gaps"
    if not usable:
        raise DigitNetError(
            f"{found.source}: labels out of range: expected {expected}; "
            f"received: {listed(map(str, values), 12)}."
        )
    names = found.class_names or {}
    classes = tuple(as_text(names.get(value, str(value))) for value in values.tolist())
    splits = {name: _numbered(part, name, values, found) for name, part in found.splits.items()}
    return classes, splits


def _numbered(split: Split, name: str, values: np.ndarray, found: Source) -> Split:
    if len(unknown := np.setdiff1d(split.labels, values)):
        raise DigitNetError(
            f"{found.source}: labels out of range: the {_SPLIT_NAMES[name]} set has classes that "
            f"the training set lacks; received: {listed(map(str, unknown), 12)}."
        )
    order = np.argsort(values)
    places = np.searchsorted(values, split.labels, sorter=order)
    return Split(split.images, order[places].astype(np.int64))
