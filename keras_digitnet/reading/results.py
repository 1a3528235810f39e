"""What was read: digits with boxes and confidence, and pictures of them."""

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import open_upright

if TYPE_CHECKING:
    from PIL import Image

    from keras_digitnet.pictures.sources import Picture

_MAX_SHOWN = 1600  # the longer side of the picture that a notebook shows and stores, in pixels


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
        size = max(10, height // 6)  # larger text would overlap that of narrow neighbours
        # Above the digit if the text fits there, otherwise below it, otherwise inside its box.
        fits_under = top < size and bottom + size < drawn.height
        y, anchor = (bottom + 1, "la") if fits_under else (top, "lb" if top >= size else "la")
        pen.text((left, y), text, "red", ImageFont.load_default(size), anchor)
    return drawn
