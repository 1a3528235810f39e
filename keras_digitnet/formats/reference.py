"""A Keras model that others are written from, and its answers, which theirs are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_digitnet.config import IMAGE_SHAPE
from keras_digitnet.data import Dataset
from keras_digitnet.formats import Format
from keras_digitnet.formats.runtime import READER_OUTPUTS

if TYPE_CHECKING:
    import keras

# The most that a float32 probability may differ from the Keras model's, and a side of a box, which
# is a number of pixels.
TOLERANCE = 1e-5
BOX_TOLERANCE = 1e-2
# The most that rounding to eight bits may add to the mistakes, as a share of the images. Of fewer
# images than these chance moves it by more, and those count of which the Keras model is so sure.
ROUNDING_COST = 1e-3
ENOUGH_IMAGES = 10_000
_SURE = 0.9

Answer = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Reference:
    """A classifier that is exported, and its answers.

    Attributes:
        path: The `.keras` file.
        inference: The network as it is deployed.
        classes: Their names, if there are any.
        dataset: The images that it is compared on.
        batches: Inputs, a few at a time.
        answers: The Keras model's outputs for each of them.
    """

    path: Path
    inference: "keras.Model"
    classes: tuple[str, ...] | None
    dataset: Dataset
    batches: tuple[np.ndarray, ...]
    answers: tuple[Answer, ...]

    # What the network takes.
    input_shape: ClassVar[tuple[int | None, ...]] = IMAGE_SHAPE
    takes_bytes: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        return int(self.answers[0][0].shape[-1])

    @property
    def probabilities(self) -> np.ndarray:
        return np.concatenate([answer[0] for answer in self.answers])

    @property
    def labels(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @property
    def truth(self) -> np.ndarray:
        """The images' labels; the model's own where it knows other classes."""
        own = self.classes in (None, self.dataset.classes)
        return self.dataset.test.labels if own else self.labels

    def named(self, images: Any) -> dict[str, Any]:
        """The outputs, in a graph of TensorFlow's."""
        import tensorflow as tf

        probabilities = self.inference(images)
        # TensorFlow's own: Keras's argmax minds -0.0 with operations that ONNX lacks.
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": tf.identity(probabilities), "label": label}

    def compared(self, form: Format, answers: Sequence[Answer]) -> tuple[float, int, str | None]:
        """The largest difference, how many images get the same label, and what is wrong, if any."""
        probabilities, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        difference = float(np.abs(probabilities - self.probabilities).max())
        same = int((labels == self.labels).sum())
        judge = self._wrong_where_rounded if form.rounded else self._wrong
        return difference, same, judge(difference, labels)

    def _wrong(self, difference: float, labels: np.ndarray) -> str | None:
        differing = int((labels != self.labels).sum())
        if difference <= TOLERANCE and not differing:
            return None
        return (
            f"expected the Keras model's labels, and its probabilities within {TOLERANCE}; "
            f"received: {differing} other labels, a difference of {difference:.1e}."
        )

    def _wrong_where_rounded(self, difference: float, labels: np.ndarray) -> str | None:
        if not np.isfinite(difference):
            return "expected finite probabilities of int8; received: NaN or infinity."
        judge = _cost if len(labels) >= ENOUGH_IMAGES else _otherwise_where_sure
        problem = judge(self, labels)
        return problem and f"{problem} Export it as litert, in float32."


@dataclass(frozen=True)
class ReaderReference(Reference):
    """A reader that is exported: compared on pages of several sizes."""

    input_shape: ClassVar[tuple[int | None, ...]] = (None, None, 1)
    takes_bytes: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:
        return int(self.answers[0][2].shape[-1])

    def named(self, images: Any) -> dict[str, Any]:
        import tensorflow as tf

        found = self.inference(images)
        return {name: tf.identity(found[name]) for name in READER_OUTPUTS}

    def compared(self, form: Format, answers: Sequence[Answer]) -> tuple[float, int, str | None]:
        """The same of presences; pages count on which both find the same characters."""
        difference, away, same = 0.0, 0.0, 0
        for answer, expected in zip(answers, self.answers, strict=True):
            apart = [np.abs(a - b).max() for a, b in zip(answer, expected, strict=True)]
            difference = max(difference, float(apart[0]), float(apart[2]))
            away = max(away, float(apart[1]))
            found = [
                np.where(presence > 0.5, probabilities.argmax(axis=-1), -1)
                for presence, _, probabilities in (answer, expected)
            ]
            same += int((found[0] == found[1]).all(axis=(1, 2)).sum())
        if difference <= TOLERANCE and away <= BOX_TOLERANCE:
            return difference, same, None
        problem = (
            f"expected the Keras model's presence and probabilities within {TOLERANCE}, and its "
            f"boxes within {BOX_TOLERANCE} pixels; received: differences of {difference:.1e} and "
            f"{away:.1e}."
        )
        return difference, same, problem


def _cost(reference: Reference, labels: np.ndarray) -> str | None:
    cost = int((labels != reference.truth).sum() - (reference.labels != reference.truth).sum())
    if cost <= ROUNDING_COST * len(labels):
        return None
    return (
        f"expected int8 to cost at most {ROUNDING_COST:.1%} of {len(labels):,} images; "
        f"received: {cost} more mistakes."
    )


def _otherwise_where_sure(reference: Reference, labels: np.ndarray) -> str | None:
    """Judges int8 by the images that do not hang in the balance.

    Rounding decides those that do, however fine it is, and there are many of
    them among digits that the model was not trained for. Of a model that is
    hardly sure of anything the surer half counts.
    """
    confidence = reference.probabilities.max(axis=1)
    sure = confidence >= min(_SURE, float(np.median(confidence)))
    count, otherwise = int(sure.sum()), int((labels != reference.labels)[sure].sum())
    allowed = max(1, int(ROUNDING_COST * count))
    if otherwise <= allowed:
        return None
    return (
        f"expected int8 to keep the label of at least {count - allowed:,} of the {count:,} images "
        f"of {reference.dataset.name} that the Keras model is sure of ({len(labels):,} images are "
        f"too few to measure a cost of {ROUNDING_COST:.1%}); received: {otherwise} other labels."
    )
