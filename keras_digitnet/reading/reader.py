"""Reads pictures of digits: finds each digit and classifies it."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import described, read_grey
from keras_digitnet.pictures.mnist_form import digit_in, is_normalized, may_show_several
from keras_digitnet.pictures.sources import name_of
from keras_digitnet.reading.finding import (
    BESIDE,
    FILLING,
    PRESENT,
    SMALLEST,
    Character,
    Reader,
    in_lines,
    present,
    tallest,
)
from keras_digitnet.reading.pipeline import FoundDigit, Model, Pipeline, as_pipeline
from keras_digitnet.reading.results import Digit, Reading

if TYPE_CHECKING:
    from keras_digitnet.pictures.sources import Picture

# The usual minimum height of a single digit, as a fraction of the tallest possible one. With 1/4,
# three scales are searched, and 2 of 300 lines of two to eight digits are taken for a single digit;
# with 1/3 it is two scales, and 27 lines.
_LARGE = 1 / 4


class NoDigitError(DigitNetError):
    """The picture was read, and shows no digit."""


def read(
    picture: "Picture",
    model: Model = None,
    min_confidence: float = 0.0,
    smallest: float = SMALLEST,
) -> Reading:
    """Reads the digits in a picture: a number, or lines of numbers.

    Args:
        picture: As for `normalize_digit`.
        model: As for `as_pipeline`.
        min_confidence: From 0 to 1; a digit that is less probable becomes `?`.
        smallest: Height of the smallest digits that are sought, as a fraction
            of the picture's longer side.

    Raises:
        NoDigitError: The picture shows no digit.
        DigitNetError: It is not a picture, or a number is out of range.
        ModelError: The model fails, or a server does not answer.
    """
    if not 0 <= min_confidence <= 1 or not 0 < smallest <= 1:
        raise DigitNetError(
            "expected min_confidence from 0 to 1, and smallest above 0 and up to 1; "
            f"received: {min_confidence} and {smallest}."
        )
    pipeline = as_pipeline(model)
    grey = read_grey(picture)
    lines = _find(grey, pipeline.reader, smallest)
    if not lines:
        raise _nothing(picture, grey)
    found = list(itertools.chain(*lines))
    digits = tuple(
        _digit(each, probabilities, pipeline.classes, min_confidence)
        for each, probabilities in zip(found, pipeline.classify(found), strict=True)
    )
    labels = iter(digits)
    text = "\n".join("".join(next(labels).label for _ in line) for line in lines)
    return Reading(text, math.prod(digit.confidence for digit in digits), digits, picture)


def normalize_digit(picture: "Picture", reader: Reader | None = None) -> np.ndarray:
    """Converts a picture of one digit to MNIST's form.

    That is light on black, scaled to 20x20 and centred in 28x28 by its mass. A
    28x28 picture, light on dark, whose centre of mass is between pixels 12.5 and
    15 on both axes is returned unchanged. The pictures of a training set are converted
    in the same way.

    Args:
        picture: As for `read_grey`: a file's path or content, an open file, a
            Pillow image, or an array; dark on light or light on dark.
        reader: Finds the digit; by default the shipped one.

    Returns:
        `(28, 28)` uint8.

    Raises:
        DigitNetError: It is not a picture, or does not show exactly one digit.
    """
    if reader is not None and not isinstance(reader, Reader):
        raise DigitNetError(
            f"reader: expected a reader, as kd.load returns it; received: {type(reader).__name__}."
        )
    grey = read_grey(picture)
    if is_normalized(grey) and not may_show_several(grey):
        return grey  # without loading a model
    return _unless_normalized(picture, grey, reader or as_pipeline().reader).image


def find_digit(picture: "Picture", pipeline: Pipeline) -> FoundDigit:
    """Finds the one digit of a picture, which may be in MNIST's form already.

    Raises:
        DigitNetError: It is not a picture, or does not show exactly one digit.
    """
    grey = read_grey(picture)
    find = _unless_normalized if pipeline.classifier else _single_digit
    return find(picture, grey, pipeline.reader)


def _unless_normalized(picture: "Picture", grey: np.ndarray, reader: Reader | None) -> FoundDigit:
    """A picture in MNIST's form as it is, or the likeliest digit of another one."""
    if not is_normalized(grey):
        return _single_digit(picture, grey, reader)
    if reader and may_show_several(grey):
        _refuse_several(picture, present(reader.candidates(grey)))
    return FoundDigit(grey)


def _single_digit(picture: "Picture", grey: np.ndarray, reader: Reader | None) -> FoundDigit:
    """The likeliest digit; small ones are sought only if there is no large one."""
    if reader is None:
        only = whole_picture(grey)
        if not only.image.any():
            raise _nothing(picture, grey)
        return only
    large = _LARGE * tallest(grey.shape)
    candidates = reader.candidates(grey, large / max(grey.shape))
    if not any(each.presence >= BESIDE for each in candidates):
        # A faint large character is a blurred digit, a faint small one is noise.
        candidates = [
            each
            for each in reader.candidates(grey)
            if each.presence >= BESIDE or each.box[3] - each.box[1] >= large
        ]
    if not candidates:
        raise _nothing(picture, grey)
    best = max(candidates, key=lambda each: each.presence)
    _refuse_several(picture, present(candidates, min(PRESENT, best.presence)))
    return FoundDigit(digit_in(grey, best.box), best)


def _refuse_several(picture: "Picture", found: Sequence[Character]) -> None:
    if len(found) > 1:
        raise DigitNetError(
            f"{name_of(picture)}: expected one digit; received: {len(found)} of them. "
            "Read a number with: keras-digitnet read"
        )


def whole_picture(grey: np.ndarray) -> FoundDigit:
    """All ink of a picture as one character in MNIST's form; black if there is none."""
    if is_normalized(grey):
        return FoundDigit(grey)
    box = (0.0, 0.0, float(grey.shape[1]), float(grey.shape[0]))
    return FoundDigit(digit_in(grey, box), Character(box, 1.0, np.zeros(0)))


def _find(grey: np.ndarray, reader: Reader | None, smallest: float) -> list[list[FoundDigit]]:
    """The digits of a picture, in lines; without a reader, all ink is one character."""
    if reader is None:
        only = whole_picture(grey)
        return [[only]] if only.image.any() else []
    # In MNIST's form a picture shows one digit, so the likeliest one counts, whatever its height.
    filling = 0.0 if is_normalized(grey) else FILLING
    lines = in_lines(reader.find(grey, smallest, filling))
    return [[FoundDigit(digit_in(grey, each.box), each) for each in line] for line in lines]


def _nothing(picture: "Picture", grey: np.ndarray) -> NoDigitError:
    return NoDigitError(
        f"{name_of(picture)}: no digit found: expected digits that contrast with the paper; "
        f"received: {described(grey)} without one."
    )


def _digit(
    found: FoundDigit, probabilities: np.ndarray, classes: tuple[str, ...], min_confidence: float
) -> Digit:
    assert found.character is not None
    joint = found.presence * probabilities.astype(np.float64)
    ranked = [(classes[index], float(joint[index])) for index in np.argsort(-joint)]
    label, confidence = ranked[0]
    left, top, right, bottom = found.character.box
    return Digit(
        label if confidence >= min_confidence else "?",
        confidence,
        tuple(ranked[1:3]),
        (round(left), round(top), round(right - left), round(bottom - top)),
        found.image,
        joint,
    )
