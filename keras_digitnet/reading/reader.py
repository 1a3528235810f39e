"""Pictures of digits: where each is, and what it says."""

import functools
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import described, open_upright, read_grey
from keras_digitnet.pictures.mnist_form import digit_in, is_normalized
from keras_digitnet.pictures.sources import name_of
from keras_digitnet.reading.finding import BESIDE, SMALLEST, Character, Reader, in_lines, present
from keras_digitnet.reading.inference import Classifier, load, load_classifier

if TYPE_CHECKING:
    from PIL import Image

    from keras_digitnet.pictures.sources import Picture

# The shipped models that read together where none is named.
READER, CLASSIFIER = "reader", "base"
# How much the classifier's log odds count beside the reader's: between 0.1, best on the cheques
# that may be looked at, and 0.35, best on table cells and tight crops; half a point each way.
_WEIGHT = 0.2
# Height of a digit that is alone in its picture, as a share of the longer side, at least as a rule.
_LARGE = 1 / 5
_LEAST = 1e-4  # what a probability counts as at least, so that neither overrules the other
_MOST_SHOWN = 1600  # pixels of the longer side of what a notebook shows, and stores


class NoDigitError(DigitNetError):
    """The picture can be read and has no digit."""


@dataclass(frozen=True)
class Digit:
    """One digit of a reading.

    Attributes:
        label: The name of the most probable class, or `?` where it is in doubt.
        confidence: The probability that a digit is there and of that class.
        alternatives: The next most probable classes and their probabilities.
        box: Left, top, width and height in pixels of the upright picture.
        image: `(28, 28)` uint8, the digit in MNIST's form.
        probabilities: `(C,)` float64 of the model's classes: that a digit is
            there and of that class.
    """

    label: str
    confidence: float
    alternatives: tuple[tuple[str, float], ...]
    box: tuple[int, int, int, int]
    image: np.ndarray = field(repr=False)
    probabilities: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Reading:
    """What a picture says; a notebook shows it on the picture.

    Attributes:
        text: The digits, a line of text a line, in reading order.
        confidence: The probability that all of them are right, if each is on its own.
        digits: Each digit, in the order of the text.
        picture: What was read, as it was given. Pickles and copies go without it.
    """

    text: str
    confidence: float
    digits: tuple[Digit, ...]
    picture: "Picture | None" = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "picture": None}

    def _repr_png_(self) -> bytes | None:
        """The annotated picture for a notebook; `None` if it cannot be opened any more."""
        if self.picture is None:
            return None
        try:
            drawn = annotate(self.picture, self)
        except DigitNetError:
            return None
        drawn.thumbnail((_MOST_SHOWN, _MOST_SHOWN))
        content = io.BytesIO()
        drawn.save(content, "PNG")
        return content.getvalue()


@dataclass(frozen=True)
class Team:
    """What reads pictures: a reader finds the digits; it, a classifier or both name them.

    Attributes:
        reader: Finds them; `None` takes all ink of a picture for one character.
        classifier: Names what was found, in MNIST's form; `None` leaves it to the reader.
        together: Whether both name it, or the classifier alone.
    """

    reader: Reader | None
    classifier: Classifier | None
    together: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        model = self.classifier or self.reader
        assert model is not None
        return model.classes

    def name(self, found: Sequence["Found"]) -> np.ndarray:
        """`(N, C)` probabilities of the classes of what was found."""
        answers = np.zeros((len(found), len(self.classes)), np.float32)
        if self.classifier is not None and found:
            answers = self.classifier.predict(
                np.stack([each.image for each in found])
            ).probabilities
        for row, each in enumerate(found):
            if each.character is None:
                continue  # in MNIST's form as it came: the classifier's own
            if self.classifier is None:
                answers[row] = each.character.probabilities
            elif self.together:
                answers[row] = _both(each.character.probabilities, answers[row])
        return answers


@dataclass(frozen=True)
class Found:
    """A digit that is to be named.

    Attributes:
        image: `(28, 28)` uint8, in MNIST's form.
        character: What the reader found; `None` for a picture that had that
            form already.
    """

    image: np.ndarray
    character: Character | None = None

    @property
    def presence(self) -> float:
        return self.character.presence if self.character else 1.0


def _both(of_reader: np.ndarray, of_classifier: np.ndarray) -> np.ndarray:
    """`(C,)` probabilities: a product of experts, the classifier's with `_WEIGHT`."""
    odds = np.log(of_reader + _LEAST) + _WEIGHT * np.log(of_classifier + _LEAST)
    odds = np.exp(odds - odds.max())
    return odds / odds.sum()


def team(
    model: Classifier | Reader | Team | None = None,
    reader: Reader | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> Team:
    """What reads pictures with a model.

    Args:
        model: A reader; or a classifier, which names what a reader finds; or
            none for the shipped reader and `base` together; or a team.
        reader: Finds for a classifier; else the shipped one, if the classes are
            the ten digits.
        backend: As for `load`, of what is loaded here.
        threads: The same.

    Raises:
        DigitNetError: Classes differ, or a reader is given one to find for it.
    """
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


@functools.cache  # pictures come one by one, and each would load it anew
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
    model: Classifier | Reader | Team | None = None,
    min_confidence: float = 0.0,
    smallest: float = SMALLEST,
) -> Reading:
    """The digits in a picture: a number, or lines of them.

    Args:
        picture: As for `normalize_digit`.
        model: As for `team`.
        min_confidence: A digit that is less probable becomes `?`.
        smallest: Height of the smallest digits, as a share of the picture's
            longer side.

    Raises:
        DigitNetError: It is no picture, or (`NoDigitError`) there is no digit in it.
    """
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
    """One digit in MNIST's form: light on black, fit to 20x20, centred in 28x28 by its mass.

    A 28x28 picture, light on dark, whose mass lies within a pixel of the
    centre has that form already and comes back unchanged. Training brings the
    pictures of a data set into this form too, so that a network sees in
    `predict` what it was trained on.

    Args:
        picture: As for `read_grey`: a file's path or content, an open file, a
            Pillow image, or an array; dark on light or light on dark.
        reader: Finds the digit; else the shipped one.

    Returns:
        `(28, 28)` uint8.

    Raises:
        DigitNetError: It is no picture, or there is no digit in it, or several.
    """
    grey = read_grey(picture)
    if is_normalized(grey):
        return grey
    return _only(picture, grey, reader or team().reader).image


def find_digit(picture: "Picture", reading_team: Team) -> Found:
    """The one digit of a picture, in MNIST's form; a picture in that form is one.

    Raises:
        DigitNetError: It is no picture, or there is no digit in it, or several.
    """
    grey = read_grey(picture)
    if reading_team.classifier and is_normalized(grey):
        return Found(grey)
    return _only(picture, grey, reading_team.reader)


def _only(picture: "Picture", grey: np.ndarray, reader: Reader | None) -> Found:
    """The digit that is present, or else the likeliest that may be.

    One digit is rarely small in its picture: small ones are sought if no large one is there.
    """
    if reader is None:
        only = whole(grey)
        if not only.image.any():
            raise _nothing(picture, grey)
        return only
    candidates = reader.candidates(grey, _LARGE)
    if not any(each.presence >= BESIDE for each in candidates):
        candidates = reader.candidates(grey)
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
    """All ink of a picture as one character in MNIST's form; black where there is none."""
    if is_normalized(grey):
        return Found(grey)
    box = (0.0, 0.0, float(grey.shape[1]), float(grey.shape[0]))
    return Found(digit_in(grey, box), Character(box, 1.0, np.zeros(0)))


def _find(grey: np.ndarray, reader: Reader | None, smallest: float) -> list[list[Found]]:
    """What is to be named, in lines; without a reader, all ink together is one character."""
    if reader is None:
        only = whole(grey)
        return [[only]] if only.image.any() else []
    lines = in_lines(reader.find(grey, smallest))
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
    present = found.presence * probabilities.astype(np.float64)
    ranked = [(classes[index], float(present[index])) for index in np.argsort(-present)]
    label, confidence = ranked[0]
    left, top, right, bottom = found.character.box
    return Digit(
        label if confidence >= min_confidence else "?",
        confidence,
        tuple(ranked[1:3]),
        (round(left), round(top), round(right - left), round(bottom - top)),
        found.image,
        present,
    )


def annotate(picture: "Picture", reading: Reading) -> "Image.Image":
    """The picture in colour with each digit's box, label and confidence drawn on it.

    The lines are thin and run outside the boxes, so that no stroke is hidden.
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
        # Above the digit, else under it; over it only where the picture ends on both sides.
        fits_under = top < size and bottom + size < drawn.height
        y, anchor = (bottom + 1, "la") if fits_under else (top, "lb" if top >= size else "la")
        pen.text((left, y), text, "red", ImageFont.load_default(size), anchor)
    return drawn
