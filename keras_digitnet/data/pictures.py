"""Normalizes the pictures of a data set in the same way as `predict`."""

import logging
import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import read_grey, resized
from keras_digitnet.pictures.mnist_form import is_light_on_dark
from keras_digitnet.reading.pipeline import Pipeline, as_pipeline
from keras_digitnet.reading.reader import find_digit, whole_picture

if TYPE_CHECKING:
    from keras_digitnet.pictures.sources import Picture

logger = logging.getLogger(__name__)


class PictureNormalizer:
    """Normalizes pictures as `predict` does, and counts the changes.

    Args:
        classes: The class names. The shipped reader finds the ten digits; of other
            classes all ink of a picture is one character.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        self._digits = set(classes) == set(string.digits)
        self._pipeline: Pipeline | None = None
        self._count = 0
        self._changed = 0
        self._inverted = 0
        self._without_ink: list[str] = []
        self._not_one: list[str] = []

    def normalize(self, picture: "Picture", name: str) -> np.ndarray:
        """Normalizes a picture to `(28, 28)` uint8.

        If no digit is found, or several, all of its ink is used as one
        character; a picture without ink is only resized, since it has a label.

        Args:
            picture: The picture.
            name: Its name for messages.

        Raises:
            DigitNetError: It is not a picture, is damaged, or is too large to open.
        """
        grey = read_grey(picture)
        self._count += 1
        image = self._normalized(grey, name)
        if not image.any():
            self._without_ink.append(name)
            return resized(grey)
        if not np.array_equal(image, grey):
            self._changed += 1
            self._inverted += not is_light_on_dark(grey)
        return image

    def _normalized(self, grey: np.ndarray, name: str) -> np.ndarray:
        if self._digits:
            self._pipeline = self._pipeline or as_pipeline()
            try:
                return find_digit(grey, self._pipeline).image
            except DigitNetError:
                self._not_one.append(name)
        return whole_picture(grey).image

    def report(self, where: str) -> None:
        """Logs once, for all pictures, what was changed.

        Args:
            where: The data set's name for messages.
        """
        if self._changed:
            logger.warning(
                "%s: %d of %d pictures were brought into MNIST's form, as predict does%s.",
                where,
                self._changed,
                self._count,
                f"; {self._inverted} were dark on light and are inverted" * bool(self._inverted),
            )
        for names, what in (
            (
                self._not_one,
                "do not show exactly one digit, so predict would refuse them; all of their ink is "
                "used",
            ),
            (self._without_ink, "show no ink and are only resized"),
        ):
            if names:
                first = names[0]
                logger.warning(
                    "%s: %d pictures %s; the first is %s.", where, len(names), what, first
                )
