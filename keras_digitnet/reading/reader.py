"""Reads pictures of digits: finds each digit and classifies it."""

import functools
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import described, open_upright, read_grey
from keras_digitnet.pictures.mnist_form import digit_in, is_normalized
from keras_digitnet.pictures.sources import name_of
from keras_digitnet.reading.finding import (
    BESIDE,
    FILLING,
    SMALLEST,
    Character,
    Reader,
    in_lines,
    present,
    tallest,
)
from keras_digitnet.reading.inference import Classifier, load, load_classifier

if TYPE_CHECKING:
    from PIL import Image

    from keras_digitnet.pictures.sources import Picture

# The shipped models that read together by default.
READER, CLASSIFIER = "reader", "base"
# The weight of the classifier's log probabilities relative to the reader's. Right with 0.15, 0.2
# and 0.25: tuned cheques 85.0, 85.4 and 85.2 %, lines of MNIST's validation digits 96.7, 97.0 and
# 97.0 %, semeion 96.2, 96.4 and 96.6 %, optdigits 98.2, 97.8 and 97.8 %.
_WEIGHT = 0.2
# The usual minimum height of a single digit, as a fraction of the tallest possible one. With 1/4,
# three scales are searched, and 2 of 300 lines of two to eight digits are taken for a single digit;
# with 1/3 it is two scales, and 27 lines.
_LARGE = 1 / 4
_LEAST = 1e-4  # a floor of the probabilities, so that neither model has a veto
_MAX_SHOWN = 1600  # the longer side of the picture that a notebook shows and stores, in pixels


class NoDigitError(DigitNetError):
    """The picture was read, and shows no digit."""


@dataclass(frozen=True)
class Digit:
    """One digit of a reading.

    Attributes:
        label: The name of the most probable class, or `?` below `min_confidence`.
        confidence: The probability that there is a digit of that class.
        alternatives: The next most probable classes and their probabilities.
        box: Left, top, width and height in pixels of the upright picture.
        image: `(28, 28)` uint8, the digit in MNIST's form.
        probabilities: `(C,)` float64: that there is a digit of each class.
    """

    label: str
    confidence: float
    alternatives: tuple[tuple[str, float], ...]
    box: tuple[int, int, int, int]
    image: np.ndarray = field(repr=False, compare=False)
    probabilities: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Reading:
    """The digits of a picture; a notebook shows the annotated picture.

    Attributes:
        text: The digits in reading order, one line of text per line.
        confidence: The probability that all are right, if they are independent.
        digits: Each digit, in the order of the text.
        picture: The picture, as it was given; pickles and copies lack it.
    """

    text: str
    confidence: float
    digits: tuple[Digit, ...]
    picture: "Picture | None" = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "picture": None}

    def _repr_png_(self) -> bytes | None:
        """The annotated picture, for notebooks; `None` if it can no longer be opened."""
        if self.picture is None:
            return None
        try:
            drawn = annotate(self.picture, self)
        except DigitNetError:
            return None
        drawn.thumbnail((_MAX_SHOWN, _MAX_SHOWN))
        content = io.BytesIO()
        drawn.save(content, "PNG")
        return content.getvalue()


@dataclass(frozen=True)
class Team:
    """The models that read pictures: one finds the digits; it, a classifier or both name them.

    Attributes:
        reader: Finds them; with `None` all ink of a picture is one character.
        classifier: Names them in MNIST's form; with `None` the reader does.
        together: Whether both name them, or the classifier alone.
    """

    reader: Reader | None
    classifier: Classifier | None
    together: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        model = self.classifier or self.reader
        assert model is not None
        return model.classes

    def name(self, found: Sequence["Found"]) -> np.ndarray:
        """The class probabilities of the digits found, `(N, C)` float32."""
        answers = np.zeros((len(found), len(self.classes)), np.float32)
        if self.classifier is not None and found:
            answers = self.classifier.predict(
                np.stack([each.image for each in found])
            ).probabilities
        for row, each in enumerate(found):
            if each.character is None:
                continue  # was in MNIST's form, so only the classifier names it
            if self.classifier is None:
                answers[row] = each.character.probabilities
            elif self.together:
                answers[row] = _both(each.character.probabilities, answers[row])
        return answers


# What `team` completes.
Model = Classifier | Reader | Team | str | Path | None


@dataclass(frozen=True)
class Found:
    """A digit that has been found, but not named.

    Attributes:
        image: `(28, 28)` uint8, in MNIST's form.
        character: The reader's answer; `None` for a picture that was in MNIST's
            form already.
    """

    image: np.ndarray
    character: Character | None = None

    @property
    def presence(self) -> float:
        """The probability that there is a digit."""
        return self.character.presence if self.character else 1.0


def _both(of_reader: np.ndarray, of_classifier: np.ndarray) -> np.ndarray:
    """`(C,)` probabilities: the product of both, the classifier's to the power of `_WEIGHT`."""
    scores = np.log(of_reader + _LEAST) + _WEIGHT * np.log(of_classifier + _LEAST)
    product = np.exp(scores - scores.max())
    return product / product.sum()


def team(
    model: Model = None,
    reader: Reader | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> Team:
    """Completes a model to a team that can read pictures.

    Args:
        model: A reader; a classifier, which names the digits that a reader
            finds; the name, path or address of either, as for `load`, which is
            loaded anew in each call; `None` for the shipped reader and `base`
            together; or a team.
        reader: Finds the digits for a classifier; by default the shipped one,
            if the classes are the ten digits.
        backend: As for `load`, for the models loaded here.
        threads: As for `load`, for the models loaded here.

    Raises:
        DigitNetError: The classes differ, or `model` is a reader and another
            one is given.
    """
    if isinstance(model, str | Path):
        model = load(model, backend, threads)
    if isinstance(model, Team):
        return model
    if isinstance(model, Reader):
        if reader is not None:
            raise DigitNetError("reader: expected none beside a model that is a reader itself.")
        return Team(model, None)
    if reader is None and (model is None or model.classes == tuple("0123456789")):
        reader = _shipped_reader(backend, threads)
    if model is None:
        return Team(reader, _shipped_classifier(backend, threads), together=True)
    if reader is not None and reader.named and model.named:
        model.require_classes(reader.classes)
    return Team(reader, model)


@functools.cache  # otherwise each call of `read` would load it
def _shipped_reader(backend: str | None, threads: int | None) -> Reader:
    reader = load(READER, backend, threads)
    assert isinstance(reader, Reader)
    return reader


@functools.cache
def _shipped_classifier(backend: str | None, threads: int | None) -> Classifier:
    # A second pool of threads, which wait busily, would compete with the reader's.
    return load_classifier(CLASSIFIER, backend, threads or 1)


def read(
    picture: "Picture",
    model: Model = None,
    min_confidence: float = 0.0,
    smallest: float = SMALLEST,
) -> Reading:
    """Reads the digits in a picture: a number, or lines of numbers.

    Args:
        picture: As for `normalize_digit`.
        model: As for `team`.
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
    reading_team = team(model)
    grey = read_grey(picture)
    lines = _find(grey, reading_team.reader, smallest)
    if not lines:
        raise _nothing(picture, grey)
    found = list(itertools.chain(*lines))
    digits = tuple(
        _digit(each, probabilities, reading_team.classes, min_confidence)
        for each, probabilities in zip(found, reading_team.name(found), strict=True)
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
    grey = read_grey(picture)
    if is_normalized(grey):
        return grey
    if reader is not None and not isinstance(reader, Reader):
        raise DigitNetError(
            f"reader: expected a reader, as kd.load returns it; received: {type(reader).__name__}."
        )
    return _only(picture, grey, reader or team().reader).image


def find_digit(picture: "Picture", reading_team: Team) -> Found:
    """Finds the one digit of a picture, which may be in MNIST's form already.

    Raises:
        DigitNetError: It is not a picture, or does not show exactly one digit.
    """
    grey = read_grey(picture)
    if reading_team.classifier and is_normalized(grey):
        return Found(grey)
    return _only(picture, grey, reading_team.reader)


def _only(picture: "Picture", grey: np.ndarray, reader: Reader | None) -> Found:
    """The likeliest digit; small ones are sought only if there is no large one."""
    if reader is None:
        only = whole(grey)
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
    if len(found := present(candidates)) > 1:
        raise DigitNetError(
            f"{name_of(picture)}: expected one digit; received: {len(found)} of them. "
            "Read a number with: keras-digitnet read"
        )
    best = max(candidates, key=lambda each: each.presence)
    return Found(digit_in(grey, best.box), best)


def whole(grey: np.ndarray) -> Found:
    """All ink of a picture as one character in MNIST's form; black if there is none."""
    if is_normalized(grey):
        return Found(grey)
    box = (0.0, 0.0, float(grey.shape[1]), float(grey.shape[0]))
    return Found(digit_in(grey, box), Character(box, 1.0, np.zeros(0)))


def _find(grey: np.ndarray, reader: Reader | None, smallest: float) -> list[list[Found]]:
    """The digits of a picture, in lines; without a reader, all ink is one character."""
    if reader is None:
        only = whole(grey)
        return [[only]] if only.image.any() else []
    # In MNIST's form a picture shows one digit, so the likeliest one counts, whatever its height.
    filling = 0.0 if is_normalized(grey) else FILLING
    lines = in_lines(reader.find(grey, smallest, filling))
    return [[Found(digit_in(grey, each.box), each) for each in line] for line in lines]


def _nothing(picture: "Picture", grey: np.ndarray) -> NoDigitError:
    return NoDigitError(
        f"{name_of(picture)}: no digit found: expected digits that stand out from their paper; "
        f"received: {described(grey)} without one."
    )


def _digit(
    found: Found, probabilities: np.ndarray, classes: tuple[str, ...], min_confidence: float
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


def annotate(picture: "Picture", reading: Reading) -> "Image.Image":
    """Draws each digit's box, label and confidence on the picture, in colour.

    The lines are outside the boxes, so that they hide no stroke.
    """
    from PIL import ImageDraw, ImageFont

    drawn = open_upright(picture)
    pen = ImageDraw.Draw(drawn)
    for digit in reading.digits:
        left, top, width, height = digit.box
        line = max(1, height // 60)
        away = line + max(1, height // 30)
        left, top = max(left - away, 0), max(top - away, 0)
        right = min(digit.box[0] + width - 1 + away, drawn.width - 1)
        bottom = min(digit.box[1] + height - 1 + away, drawn.height - 1)
        pen.rectangle((left, top, right, bottom), outline="red", width=line)
        text = f"{digit.label} {digit.confidence:.0%}"
        size = max(10, height // 6)  # narrow neighbours leave room for no more
        # Above the digit if there is room, otherwise below it, otherwise inside its box.
        fits_under = top < size and bottom + size < drawn.height
        y, anchor = (bottom + 1, "la") if fits_under else (top, "lb" if top >= size else "la")
        pen.text((left, y), text, "red", ImageFont.load_default(size), anchor)
    return drawn
