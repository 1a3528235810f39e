"""The pictures of a data set, in the form in which `predict` brings a picture to the network."""

import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.images import read_grey, resized
from keras_digitnet.normalization import is_light_on_dark
from keras_digitnet.reader import Team, find_digit, team, whole

if TYPE_CHECKING:
    from keras_digitnet.images import Picture

logger = logging.getLogger(__name__)


class NormalizedPictures:
    """Pictures as `predict` shows them to a network, with a count of what became of them.

    Args:
        digits: Whether the classes are the ten digits, which the shipped reader
            finds; else all ink of a picture is one character.
    """

    def __init__(self, digits: bool = True) -> None:
        self._digits = digits
        self._team: Team | None = None
        self._count = 0
        self._changed = 0
        self._inverted = 0
        self._without_ink: list[str] = []

    def add(self, picture: "Picture", name: str) -> np.ndarray:
        """`(28, 28)` uint8, what `predict` makes of the picture.

        Where that finds no digit, or several, it is all of the picture's ink,
        and where there is none the picture at MNIST's size: whoever put it into
        a class may know better.

        Raises:
            DigitNetError: It is no picture, is damaged, or is too large to open.
        """
        grey = read_grey(picture)
        self._count += 1
        image = self._normalized(grey)
        if not image.any():
            self._without_ink.append(name)
            return resized(grey)
        if not np.array_equal(image, grey):
            self._changed += 1
            self._inverted += not is_light_on_dark(grey)
        return image

    def _normalized(self, grey: np.ndarray) -> np.ndarray:
        if self._digits:
            self._team = self._team or team()
            with contextlib.suppress(DigitNetError):
                return find_digit(grey, self._team).image
        return whole(grey).image

    def report(self, where: str) -> None:
        """Says once for all pictures what was changed."""
        if self._changed:
            logger.warning(
                "%s: %d of %d pictures were brought into MNIST's form, as predict does it%s.",
                where,
                self._changed,
                self._count,
                f"; {self._inverted} were dark on light and are inverted" * bool(self._inverted),
            )
        if self._without_ink:
            logger.warning(
                "%s: %d pictures show no ink and stay as they are; the first is %s.",
                where,
                len(self._without_ink),
                self._without_ink[0],
            )
