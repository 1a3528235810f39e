"""The pictures of a data set, in the form in which `predict` brings a picture to the network."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.images import read_grey, resized
from keras_digitnet.normalization import is_light_on_dark, normalize_digit

if TYPE_CHECKING:
    from keras_digitnet.images import Picture

logger = logging.getLogger(__name__)


class NormalizedPictures:
    """Pictures through `normalize_digit`, with a count of what became of them."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = 0
        self._inverted = 0
        self._without_ink: list[str] = []

    def add(self, picture: "Picture", name: str) -> np.ndarray:
        """`(28, 28)` uint8, what `predict` makes of the picture.

        Where that finds no ink, it is the picture at MNIST's size: whoever put
        it into a class may know better.

        Raises:
            DigitNetError: It is no picture, is damaged, or is too large to open.
        """
        grey = read_grey(picture)
        self._count += 1
        try:
            image = normalize_digit(grey)
        except DigitNetError:
            self._without_ink.append(name)
            return resized(grey)
        if not np.array_equal(image, grey):
            self._changed += 1
            self._inverted += not is_light_on_dark(grey)
        return image

    def report(self, where: str) -> None:
        """Says once for all pictures what was changed."""
        if self._changed:
            logger.warning(
                "%s: %d of %d pictures were brought into MNIST's form, as predict does it; "
                "%d of them were dark on light and are inverted.",
                where,
                self._changed,
                self._count,
                self._inverted,
            )
        if self._without_ink:
            logger.warning(
                "%s: %d pictures show no ink and stay as they are; the first is %s.",
                where,
                len(self._without_ink),
                self._without_ink[0],
            )
