"""The Keras model to export and its outputs, which exports are compared with."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from keras_digitnet.config import IMAGE_SHAPE
from keras_digitnet.data import Dataset
from keras_digitnet.formats import Format
from keras_digitnet.formats.runtime import READER_OUTPUTS

if TYPE_CHECKING:
    import keras

# The largest allowed differences from the Keras model: of a float32 probability, and of a box's
# side in pixels.
TOLERANCE = 1e-5
BOX_TOLERANCE = 1e-2
# A reader's calibration multiplies its presence logits, and their rounding errors, by up to three.
READER_TOLERANCE = 5e-4
# The largest allowed increase of mistakes by int8, as a fraction of the images. Below
# ENOUGH_IMAGES chance varies it by more than that; then only the labels of images on which the
# Keras model is confident are compared.
MAX_QUANTIZATION_LOSS = 1e-3
ENOUGH_IMAGES = 10_000
_CONFIDENT = 0.9

Answer = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Reference:
    """A classifier to export, and its outputs.

    Attributes:
        path: The `.keras` file.
        inference: The network in its deployed form.
        classes: The class names, if there are any.
        dataset: The images on which exports are compared.
        batches: Batches of inputs.
        answers: The Keras model's outputs for each batch.
    """

    path: Path
    inference: "keras.Model"
    classes: tuple[str, ...] | None
    dataset: Dataset
    batches: tuple[np.ndarray, ...]
    answers: tuple[Answer, ...]

    # The shape of an input, and whether the SavedModel also accepts PNG and JPEG bytes.
    input_shape: ClassVar[tuple[int | None, ...]] = IMAGE_SHAPE
    takes_bytes: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(self.answers[0][0].shape[-1])

    @property
    def probabilities(self) -> np.ndarray:
        """The Keras model's probabilities for all images, `(N, C)` float32."""
        return np.concatenate([answer[0] for answer in self.answers])

    @property
    def labels(self) -> np.ndarray:
        """The labels that the Keras model predicts for all images, `(N,)` int64."""
        return self.probabilities.argmax(axis=1)

    @property
    def truth(self) -> np.ndarray:
        """The true labels, `(N,)` int64; the predicted ones if the model has other classes."""
        own = self.classes in (None, self.dataset.classes)
        return self.dataset.test.labels if own else self.labels

    def shortened(self) -> Self:
        """The same with the network in fewer operations, for other runtimes than Keras."""
        from keras_digitnet.networks.folding import fold_normalizations

        return dataclasses.replace(self, inference=fold_normalizations(self.inference))

    def named(self, images: Any) -> dict[str, Any]:
        """The named outputs for a TensorFlow tensor of images."""
        import tensorflow as tf

        probabilities = self.inference(images)
        # Keras's argmax handles -0.0 by operations that ONNX lacks.
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": tf.identity(probabilities), "label": label}

    def compared(self, form: Format, answers: Sequence[Answer]) -> tuple[float, int, str | None]:
        """Compares the outputs of an export, for each of the batches, with the Keras model's.

        Returns:
            The largest difference of a probability, the number of images with the
            same label, and a description of the disagreement, if there is any.
        """
        probabilities, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        difference = float(np.abs(probabilities - self.probabilities).max())
        same = int((labels == self.labels).sum())
        check = self._check_quantized if form.quantized else self._check_exact
        return difference, same, check(difference, labels)

    def _check_exact(self, difference: float, labels: np.ndarray) -> str | None:
        differing = int((labels != self.labels).sum())
        if difference <= TOLERANCE and not differing:
            return None
        return (
            f"expected the Keras model's labels, and its probabilities within {TOLERANCE}; "
            f"received: {differing} other labels, a difference of {difference:.1e}."
        )

    def _check_quantized(self, difference: float, labels: np.ndarray) -> str | None:
        if not np.isfinite(difference):
            return "expected finite probabilities of int8; received: NaN or infinity."
        check = _check_accuracy if len(labels) >= ENOUGH_IMAGES else _check_confident_labels
        problem = check(self, labels)
        return problem and f"{problem} Export it as litert, in float32."


@dataclass(frozen=True)
class ReaderReference(Reference):
    """A reader to export; it is compared on pages of several sizes."""

    input_shape: ClassVar[tuple[int | None, ...]] = (None, None, 1)
    takes_bytes: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return int(self.answers[0][2].shape[-1])

    def shortened(self) -> Self:
        """The same with the network in fewer operations, for other runtimes than Keras."""
        from keras_digitnet.networks.folding import fuse_normalizations

        return dataclasses.replace(self, inference=fuse_normalizations(self.inference))

    def named(self, images: Any) -> dict[str, Any]:
        """The named outputs for a TensorFlow tensor of pages."""
        import tensorflow as tf

        found = self.inference(images)
        return {name: tf.identity(found[name]) for name in READER_OUTPUTS}

    def compared(self, form: Format, answers: Sequence[Answer]) -> tuple[float, int, str | None]:
        """Compares as a classifier's `compared` does.

        Returns:
            The largest difference of a presence or probability, the number of pages
            on which both models find the same characters, and a description of the
            disagreement, if there is any.
        """
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
        if difference <= READER_TOLERANCE and away <= BOX_TOLERANCE:
            return difference, same, None
        problem = (
            f"expected the Keras model's presence and probabilities within {READER_TOLERANCE}, "
            f"and its boxes within {BOX_TOLERANCE} pixels; received: differences of "
            f"{difference:.1e} and {away:.1e}."
        )
        return difference, same, problem


def _check_accuracy(reference: Reference, labels: np.ndarray) -> str | None:
    cost = int((labels != reference.truth).sum() - (reference.labels != reference.truth).sum())
    if cost <= MAX_QUANTIZATION_LOSS * len(labels):
        return None
    return (
        f"expected int8 to cost at most {MAX_QUANTIZATION_LOSS:.1%} of {len(labels):,} images; "
        f"received: {cost} more mistakes."
    )


def _check_confident_labels(reference: Reference, labels: np.ndarray) -> str | None:
    """Requires int8 to keep the labels of the images on which the Keras model is confident.

    Any rounding changes labels near a decision boundary, where many digits lie
    that differ from the training data. If the model is confident on less than
    half of the images, the more confident half is compared.
    """
    confidence = reference.probabilities.max(axis=1)
    compared = confidence >= min(_CONFIDENT, float(np.median(confidence)))
    count, changed = int(compared.sum()), int((labels != reference.labels)[compared].sum())
    allowed = max(1, int(MAX_QUANTIZATION_LOSS * count))
    if changed <= allowed:
        return None
    return (
        f"expected int8 to keep the label of at least {count - allowed:,} of the {count:,} images "
        f"of {reference.dataset.name} on which the Keras model is confident ({len(labels):,} "
        f"images are too few to measure a loss of {MAX_QUANTIZATION_LOSS:.1%}); received: "
        f"{changed} other labels."
    )
