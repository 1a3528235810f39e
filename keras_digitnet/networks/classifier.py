"""The classifier's network, from uint8 images to logits, including scaling and augmentation."""

from typing import Any

import keras
from keras import layers, ops

from keras_digitnet.config import IMAGE_SHAPE, ModelConfig
from keras_digitnet.networks.augmentation import (
    RandomAffine,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from keras_digitnet.networks.blocks import (
    DATA_FORMAT,
    convnext_block,
    convolution,
    dense,
    network_dtype,
    normalization,
)
from keras_digitnet.networks.corruption import RandomDegradation, RandomPen
from keras_digitnet.networks.layers import DepthwiseConv2D, PerPixelDense

_RANDOM_LAYERS = (
    RandomAffine,
    RandomDegradation,
    RandomPen,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
)


def build_model(config: ModelConfig, name: str = "digitnet") -> keras.Model:
    """Builds a model from `(N, 28, 28, 1)` uint8 images to `(N, num_classes)` float32 logits.

    A ConvNeXt (Liu et al., arXiv 2201.03545) with an overlapping stem. Weights
    are initialized from Keras's global seed (`keras.utils.set_random_seed`).

    Keras's `floatx` and `image_data_format` are ignored. A mixed dtype policy
    applies to the layers between the stem and the logits; the rest stays
    float32.

    Args:
        config: Sizes and augmentation.
        name: Name of the model.
    """
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, dtype="float32", name="rescaling")(images)
    x = augment(x, config)
    x = stem(x, config)
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        if stage > 0:
            x = normalization(f"stage{stage}_downsample_norm")(x)
            x = convolution(width, 2, f"stage{stage}_downsample", strides=2)(x)
        for block in range(depth):
            x = convnext_block(x, config, f"stage{stage}_block{block}")
    x = weighted_pooling(x)
    x = normalization("head_norm")(x)
    logits = dense(config.num_classes, "logits", dtype="float32")(x)
    return keras.Model(images, logits, name=name)


def stem(x: Any, config: ModelConfig) -> Any:
    """`(N, 28, 28, 1)` to `(N, 14, 14, widths[0])`: a convolution, then one with stride 2.

    Always in float32: on black pixels the normalization divides by almost zero,
    and the gradients there, a thousand times larger, overflow float16.
    """
    width = config.widths[0]
    x = convolution(max(width // 2, 1), 3, "stem_full", dtype="float32", activation="relu")(x)
    x = convolution(width, 3, "stem_half", dtype="float32", strides=2)(x)
    return normalization("stem_norm", dtype="float32")(x)


def weighted_pooling(x: Any) -> Any:
    """`(N, H, W, C)` to `(N, C)`: a learned weighted mean of each channel over the map.

    Digits are centred, so position matters, and ConvNeXt's global average
    pooling discards it. The weights are initialized to the average.
    """
    height, width = x.shape[1:3]
    mean = keras.initializers.Constant(1 / (height * width))
    x = DepthwiseConv2D(
        (height, width),
        depthwise_initializer=mean,
        data_format=DATA_FORMAT,
        dtype=network_dtype(),
        name="pooling",
    )(x)
    return layers.Flatten(DATA_FORMAT, dtype=network_dtype(), name="flatten")(x)


def augment(x: Any, config: ModelConfig) -> Any:
    """Adds the random layers of `config`; the shape `(N, 28, 28, 1)` is kept."""
    if config.augmentation == "none":
        return x
    if config.augmentation == "affine":
        x = RandomAffine(
            config.rotation,
            config.shift,
            config.zoom,
            config.shear,
            config.elastic,
            name="random_affine",
        )(x)
    else:
        options: dict[str, Any] = {
            "fill_mode": "constant",  # black outside the image
            "fill_value": 0.0,
            "data_format": DATA_FORMAT,
            "dtype": "float32",
        }
        x = RandomRotation(config.rotation / 360, name="random_rotation", **options)(x)
        x = RandomTranslation(config.shift, config.shift, name="random_translation", **options)(x)
        x = RandomZoom(config.zoom, name="random_zoom", **options)(x)
    if config.pen > 0:
        x = RandomPen(config.pen, name="random_pen")(x)
    if config.degradation > 0:
        x = RandomDegradation(config.degradation, name="random_degradation")(x)
    return x


def build_inference_model(model: keras.Model) -> keras.Model:
    """Builds the deployed form of a classifier: without random layers, with a softmax.

    Args:
        model: A model that `build_model` has built; its layers are shared.

    Returns:
        A model from `(N, 28, 28, 1)` uint8 images to `(N, C)` float32
        probabilities.
    """
    trained = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call_without_augmentation
    )
    probabilities = ops.softmax(trained.output)
    return keras.Model(trained.input, probabilities, name=model.name)


def call_without_augmentation(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer as deployed models do, for `keras.models.clone_model`: skips random ones."""
    if isinstance(layer, _RANDOM_LAYERS):
        return args[0]
    if isinstance(layer, layers.Dense) and len(args[0].shape) == 4:
        return PerPixelDense(layer)(args[0])
    return layer(*args, **kwargs)
