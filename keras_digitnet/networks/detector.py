"""The reader's network, which finds and classifies every character of a page, and its loss.

A fully convolutional, anchor-free detector of ConvNeXt blocks (after Zhou et al., "Objects as
Points", arXiv 1904.07850). Each cell of `STRIDE` by `STRIDE` pixels predicts whether a character's
centre lies in it, the character's box and its class. Presence is separate from the class softmax,
so that one character is not found twice as two classes.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_digitnet.config import STRIDE, ReaderConfig
from keras_digitnet.networks.blocks import (
    convnext_block,
    convolution,
    dense,
    network_dtype,
    normalization,
)
from keras_digitnet.networks.layers import GrowTo
from keras_digitnet.pages.targets import USUAL_HEIGHT, USUAL_WIDTH

# Channels of a cell before the classes: presence, centre offset (2), size (2).
_BOX = 5
# Divides the loss, a sum over a page, so that it is about that of one character.
_CHARACTERS_A_PAGE = 5.0


def build_detector(config: ReaderConfig, name: str = "reader") -> keras.Model:
    """Builds a model from `(N, H, W, 1)` uint8 pages to `(N, h, w, 5 + num_classes)` float32 cells.

    H and W are variable; h and w are a quarter of them, rounded up. Weights are
    initialized from Keras's global seed.

    Args:
        config: Sizes of the network.
        name: Name of the model.
    """
    fine, coarse = config.widths
    images = keras.Input((None, None, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescaling")(images)
    x = convolution(fine // 2, 5, "stem_half", strides=2, activation="relu")(x)
    x = convolution(fine, 3, "stem_quarter", strides=2)(x)
    x = normalization("stem_norm")(x)
    before, middle, after = config.depths
    for block in range(before):
        x = convnext_block(x, config, f"fine{block}")
    y = normalization("downsample_norm")(x)
    y = convolution(coarse, 2, "downsample", strides=2)(y)
    for block in range(middle):
        y = convnext_block(y, config, f"coarse{block}")
    y = dense(fine, "upsample")(normalization("upsample_norm")(y))
    y = GrowTo(dtype=network_dtype(), name="grow")([y, x])
    x = layers.Add(dtype=network_dtype(), name="upsample_add")([x, y])
    for block in range(before, before + after):
        x = convnext_block(x, config, f"fine{block}")
    x = normalization("head_norm")(x)
    presence = layers.Dense(
        1,
        kernel_initializer=_nearly_zero(),
        # Very few cells hold a centre, so the initial presence is low.
        bias_initializer=keras.initializers.Constant(-4.0),
        dtype="float32",
        name="presence",
    )(x)
    boxes = layers.Dense(4, kernel_initializer=_nearly_zero(), dtype="float32", name="boxes")(x)
    hidden = dense(coarse, "class_hidden", "relu")(x)
    classes = dense(config.num_classes, "logits", dtype="float32")(hidden)
    return keras.Model(
        images,
        layers.Concatenate(dtype="float32", name="cells")([presence, boxes, classes]),
        name=name,
    )


def build_detection_model(model: keras.Model) -> keras.Model:
    """Builds the deployed form of a detector, which outputs probabilities and boxes in pixels.

    Args:
        model: A model that `build_detector` has built; its layers are shared.

    Returns:
        A model from `(N, H, W, 1)` uint8 images to a dictionary of float32
        arrays: `presence` `(N, h, w)` from 0 to 1; `boxes` `(N, h, w, 4)`,
        left, top, right and bottom in pixels; `probabilities` `(N, h, w, C)`.
        h and w are a quarter of H and W, rounded up.
    """
    cells = model.output
    rows, columns = _centres(cells)
    column = STRIDE * (columns + cells[..., 1])
    row = STRIDE * (rows + cells[..., 2])
    width = USUAL_WIDTH * ops.exp(ops.clip(cells[..., 3], -4, 4)) / 2
    height = USUAL_HEIGHT * ops.exp(ops.clip(cells[..., 4], -4, 4)) / 2
    boxes = ops.stack([column - width, row - height, column + width, row + height], axis=-1)
    return keras.Model(
        model.input,
        {
            "presence": ops.sigmoid(cells[..., 0]),
            "boxes": boxes,
            "probabilities": ops.softmax(cells[..., _BOX:]),
        },
        name=model.name,
    )


def _centres(cells: Any) -> tuple[Any, Any]:
    """The rows and columns of the cells' centres, each `(N, h, w)`, in cells; h and w may vary."""
    ones = ops.ones_like(cells[..., 0])
    return ops.cumsum(ones, axis=1) - 0.5, ops.cumsum(ones, axis=2) - 0.5


def _nearly_zero() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.01)


# Calibration


def characters(cells: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits `(M, C)` of the cells at characters' centres, and their labels `(M,)`.

    Args:
        cells: `(N, h, w, 5 + C)`, the output of a detector.
        targets: `(N, h, w, 8)`, the training targets of the same pages.
    """
    centre = targets[..., 0] > 0.999
    return cells[centre][:, _BOX:], targets[centre][:, 3].astype(np.int64)


def peaks(cells: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The presence logits `(M,)` at local maxima, and whether each is a character, `(M,)` bool.

    Args:
        cells: `(N, h, w, 5 + C)`, the output of a detector.
        targets: `(N, h, w, 8)`, the training targets of the same pages.
    """
    from scipy import ndimage

    logits = cells[..., 0]
    around = (1, 3, 3)
    highest = logits >= ndimage.maximum_filter(logits, around)
    centre = ndimage.maximum_filter(targets[..., 0], around) > 0.999  # an adjacent cell counts
    counted = highest & (centre | (targets[..., 1] > 0))
    return logits[counted], centre[counted]


def fold_presence(model: keras.Model, scale: float, shift: float) -> None:
    """Folds the map `scale * logit + shift` into the weights of a detector's presence layer."""
    layer = model.get_layer("presence")
    kernel, bias = layer.get_weights()
    layer.set_weights([scale * kernel, scale * bias + shift])


def centre_features(model: keras.Model, pages: np.ndarray) -> None:
    """Moves the mean of a detector's last features into the biases of the layers that use them.

    Its outputs are the same. Without it the presence, whose weights are large, is
    a small difference of large numbers, which runtimes round differently.

    Args:
        model: A model that `build_detector` has built.
        pages: `(N, H, W, 1)` uint8, typical pages.
    """
    norm = model.get_layer("head_norm")
    features = keras.Model(model.input, norm.output).predict(pages, verbose=0)
    mean = np.asarray(features, np.float64).mean(axis=(0, 1, 2))
    gamma, beta = norm.get_weights()
    norm.set_weights([gamma, beta - mean])
    for name in ("presence", "boxes", "class_hidden"):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias + mean @ kernel.astype(np.float64)])


@keras.saving.register_keras_serializable(package="keras_digitnet")
class DetectionLoss(keras.losses.Loss):
    """The loss of a detector, one value per page.

    The sum of the penalty-reduced focal loss of presence (arXiv 1904.07850,
    equation 1), the cross-entropy of the classes and half the smooth L1 loss
    of the boxes.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """`(N,)` losses of cells `(N, h, w, 5 + C)` against `targets` `(N, h, w, 8)`."""
        heat, loss_mask, weight = y_true[..., 0], y_true[..., 1], y_true[..., 2]
        presence = ops.clip(y_pred[..., 0], -12.0, 12.0)
        probability = ops.sigmoid(presence)
        centre = ops.cast(heat > 0.999, presence.dtype)
        positive = centre * (1 - probability) ** 2 * ops.log_sigmoid(presence)
        negative = (
            (1 - centre) * loss_mask * (1 - heat) ** 4 * probability**2 * ops.log_sigmoid(-presence)
        )
        focal = -ops.sum(positive + negative, axis=(1, 2))
        entropy = keras.losses.sparse_categorical_crossentropy(
            ops.cast(y_true[..., 3], "int32"), y_pred[..., _BOX:], from_logits=True
        )
        distance = ops.abs(y_pred[..., 1:_BOX] - y_true[..., 4:])
        smooth = ops.sum(ops.where(distance < 0.1, 5 * distance**2, distance - 0.05), axis=-1)
        positive_loss = ops.sum(weight * (entropy + 0.5 * smooth), axis=(1, 2))
        return (focal + positive_loss) / _CHARACTERS_A_PAGE


@keras.saving.register_keras_serializable(package="keras_digitnet")
class CharacterAccuracy(keras.metrics.Mean):
    """The fraction of characters detected and classified correctly by the cell at their centre."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Compares cells `(N, h, w, 5 + C)` with `targets` `(N, h, w, 8)`."""
        labels = ops.cast(y_true[..., 3], "int32")
        right = ops.cast(ops.argmax(y_pred[..., _BOX:], axis=-1), "int32") == labels
        found = ops.logical_and(right, y_pred[..., 0] > 0)
        centre = y_true[..., 0] > 0.999
        return super().update_state(ops.cast(found, "float32"), ops.cast(centre, "float32"))
