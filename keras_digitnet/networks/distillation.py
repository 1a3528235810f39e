"""Knowledge distillation (Hinton et al., arXiv 1503.02531): a network learns from trained ones."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_digitnet.config import IMAGE_SHAPE
from keras_digitnet.networks.classifier import call_without_augmentation

# The temperature of the softened probabilities, and the weight of their divergence beside the
# cross-entropy of the labels. No others were tried; scripts/recipe_log.md has what they gain.
TEMPERATURE = 2.0
WEIGHT = 1.0


class Distillation(layers.Layer):
    """Adds to the training loss how far a classifier's logits are from its teachers'.

    The term is the divergence of the probabilities at `TEMPERATURE` from the
    mean of the teachers', times the temperature's square, so that its gradient
    does not depend on the temperature. Outside of training it is not computed.
    The teachers' weights are not part of the layer, hence not of the model's
    files.

    Input: logits `(N, C)` and the augmented images `(N, 28, 28, 1)` float in
    [0, 1] that they were computed from. Output: the logits.

    Args:
        teachers: Classifiers that `build_model` has built, with the same classes.
    """

    def __init__(self, teachers: Sequence[keras.Model], **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        # Keras does not look into a function for weights.
        self._teacher = functools.partial(_build_ensemble(teachers), training=False)

    def call(self, logits: Any, images: Any, training: bool = False) -> Any:
        if training:
            teacher_probabilities = ops.stop_gradient(self._teacher(images))
            student_probabilities = ops.softmax(logits / TEMPERATURE)
            divergence = ops.mean(
                keras.losses.kl_divergence(teacher_probabilities, student_probabilities)
            )
            self.add_loss(WEIGHT * TEMPERATURE**2 * divergence)
        return logits

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}  # checkpoints are read for their weights only


def add_teachers(model: keras.Model, teachers: Sequence[keras.Model]) -> keras.Model:
    """A model that shares the layers of `model` and learns from the teachers in training.

    Args:
        model: A classifier that `build_model` has built.
        teachers: As for `Distillation`.
    """
    augmented = model.get_layer("stem_full").input
    logits = Distillation(teachers, name="distillation")(model.output, augmented)
    return keras.Model(model.input, logits, name=model.name)


def _build_ensemble(teachers: Sequence[keras.Model]) -> keras.Model:
    """The mean of the teachers' softened probabilities for scaled images."""
    images = keras.Input(IMAGE_SHAPE, dtype="float32")
    softened = []
    for index, teacher in enumerate(teachers):
        teacher.trainable = False
        logits = keras.models.clone_model(
            teacher,
            input_tensors=images,
            clone_function=lambda layer: layer,
            call_function=_call_on_scaled,
        )
        logits.name = f"teacher{index}"
        softened.append(ops.softmax(logits(images) / TEMPERATURE))
    return keras.Model(images, sum(softened[1:], softened[0]) / len(softened))


def _call_on_scaled(layer: layers.Layer, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, layers.Rescaling):
        return args[0]
    return call_without_augmentation(layer, *args, **kwargs)
