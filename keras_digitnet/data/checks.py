"""Checks images and labels, brings images into MNIST's form and numbers the classes."""

import dataclasses
import logging

import numpy as np

from keras_digitnet.config import SIDE
from keras_digitnet.data.files import as_text, listed, natural
from keras_digitnet.data.splits import Source, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.mnist_form import is_light_on_dark

logger = logging.getLogger(__name__)

# uint8 images reach 255; a set whose maximum is below this has a range such as 0 to 1 or 0 to 16.
_LOWEST_WHITE = 64
# A set is dark on light if at least this share of about so many sampled images is.
_SAMPLED = 200
_MOSTLY = 0.75

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
    if images.dtype.kind not in "iu":
        not_finite = images.dtype.kind == "f" and not np.isfinite(images).all()
        raise DigitNetError(
            f"{where}: expected whole numbers from 0 to 255 (uint8); "
            f"received: {images.dtype}{' with NaN or infinity' if not_finite else ''}."
        )
    if images.dtype != np.uint8:
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise DigitNetError(
                f"{where}: expected values from 0 to 255; received: {low} to {high}."
            )
        images = images.astype(np.uint8)
    return np.ascontiguousarray(images)[..., None]


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

    A set of arrays is scaled and inverted as a whole, never image by image.
    Whether an image is dark on light is decided by the function that `predict`
    uses.
    """
    if found.in_mnist_form:
        return found
    images = found.splits["train"].images
    scale, inverted = 1.0, False
    white = int(images.max())
    if 0 < white < _LOWEST_WHITE:
        scale = 255 / white
        images = _scaled(images, scale)
        logger.warning("%s: values from 0 to %d; scaled to 255.", found.source, white)
    sample = images[:: max(1, len(images) // _SAMPLED), ..., 0]
    dark = sum(not is_light_on_dark(image) for image in sample)
    if dark >= _MOSTLY * len(sample):
        inverted = True
        logger.warning(
            "%s: dark on light in %d of %d sampled images; all are inverted, as predict does.",
            found.source,
            dark,
            len(sample),
        )
    elif dark > (1 - _MOSTLY) * len(sample):
        logger.warning(
            "%s: %d of %d sampled images are dark on light and the others light on dark; none is "
            "inverted. Pictures in class folders would be inverted one by one.",
            found.source,
            dark,
            len(sample),
        )

    def changed(split: Split) -> Split:
        scaled = _scaled(split.images, scale)
        return Split(255 - scaled if inverted else scaled, split.labels)

    splits = {name: changed(split) for name, split in found.splits.items()}
    return dataclasses.replace(found, splits=splits)


def _scaled(images: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return images
    return np.minimum(np.round(images * scale), 255).astype(np.uint8)


def number_classes(found: Source) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The class names, and the splits with class indices as labels.

    Raises:
        DigitNetError: There is only one class, numbers have gaps, or another
            split has a class that the training split lacks.
    """
    values = np.unique(found.splits["train"].labels)
    if values.dtype.kind == "U":
        values = np.array(sorted(values.tolist(), key=natural))
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
