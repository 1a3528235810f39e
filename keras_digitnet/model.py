"""DigitNet itself: uint8 images to logits, scaling and augmentation inside."""

from typing import Any

import keras
from keras import layers, ops

from keras_digitnet.config import IMAGE_SHAPE, ModelConfig, ReaderConfig
from keras_digitnet.layers import (
    DepthwiseConv2D,
    RandomAffine,
    RandomDegradation,
    RandomPen,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)

DATA_FORMAT = "channels_last"
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")

_RANDOM_LAYERS = (
    RandomAffine,
    RandomDegradation,
    RandomPen,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
)


def build_model(config: ModelConfig, name: str = "digitnet") -> keras.Model:
    """A model from `(N, 28, 28, 1)` uint8 images to `(N, num_classes)` logits.

    A ConvNeXt (Liu et al., arXiv 2201.03545) with an overlapping stem. The
    first weights are drawn from Keras's global seed
    (`keras.utils.set_random_seed`).

    Keras's `floatx` and `image_data_format` have no influence. Its dtype policy
    has one if it mixes precisions: the layers between the stem and the logits
    then compute in it; these, and the images, stay float32.
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


def network_dtype() -> str:
    """The dtype policy of the layers that may mix precisions, one of `DTYPES`.

    Each states it, and `DATA_FORMAT`, where Keras would take the process's
    settings. `mixed_bfloat16` and `mixed_float16` are the process's own; under
    any other policy it is float32.
    """
    policy = str(keras.config.dtype_policy().name)
    return policy if policy in DTYPES else "float32"


def stem(x: Any, config: ModelConfig) -> Any:
    """`(N, 28, 28, 1)` to `(N, 14, 14, widths[0])`: a look at full resolution, then half of it.

    In float32 under any policy: where the image is black, the norm divides by
    next to nothing, and gradients a thousand times as large leave float16's range.
    """
    width = config.widths[0]
    x = convolution(max(width // 2, 1), 3, "stem_full", dtype="float32", activation="relu")(x)
    x = convolution(width, 3, "stem_half", dtype="float32", strides=2)(x)
    return normalization("stem_norm", dtype="float32")(x)


def convnext_block(x: Any, config: ModelConfig | ReaderConfig, name: str) -> Any:
    """One residual block: depthwise convolution, norm, inverted bottleneck.

    Args:
        x: `(N, H, W, C)` symbolic tensor; the block keeps its shape.
        config: Kernel size and expansion.
        name: Prefix of the layers' names.
    """
    width = x.shape[-1]
    branch = DepthwiseConv2D(
        config.kernel_size,
        padding="same",
        # Keras counts a depthwise kernel's channels as its fan-in, though each
        # output sees one of them; the scale takes them out again.
        depthwise_initializer=keras.initializers.VarianceScaling(width, "fan_in"),
        data_format=DATA_FORMAT,
        dtype=network_dtype(),
        name=f"{name}_depthwise",
    )(x)
    branch = normalization(f"{name}_norm")(branch)
    branch = dense(config.expansion * width, f"{name}_expand", "relu")(branch)
    branch = dense(width, f"{name}_project")(branch)
    return layers.Add(dtype=network_dtype(), name=f"{name}_add")([x, branch])


def weighted_pooling(x: Any) -> Any:
    """`(N, H, W, C)` to `(N, C)`: each channel's mean over the map, with learned weights.

    Digits are centred, so that where something is tells as much as that it is
    there; ConvNeXt's plain mean forgets it. The weights start as the mean's.
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
    """The random changes of the images that `config.augmentation` asks for."""
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
            "fill_mode": "constant",  # black, outside the image
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
    """What is deployed: the same weights, no random layer, probabilities inside.

    Args:
        model: A trained model as `build_model` gives; its layers are shared.

    Returns:
        A model from `(N, 28, 28, 1)` uint8 images to `(N, C)` float32
        probabilities.
    """
    trained = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=_call_for_inference
    )
    probabilities = ops.softmax(trained.output)
    return keras.Model(trained.input, probabilities, name=model.name)


def fold_temperature(model: keras.Model, temperature: float) -> None:
    """Divides a model's logits by `temperature`, in the weights of its last layer."""
    layer = model.get_layer("logits")
    layer.set_weights([weight / temperature for weight in layer.get_weights()])


def _call_for_inference(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    if isinstance(layer, _RANDOM_LAYERS):
        return args[0]
    if isinstance(layer, layers.Dense) and len(args[0].shape) == 4:
        # As rows it is one matrix product; on a map TensorFlow works out shapes at run time,
        # in a dozen operations a layer that every exported file would hold.
        height, width, channels = args[0].shape[1:]
        rows = layer(ops.reshape(args[0], (-1, channels)))
        return ops.reshape(rows, (-1, height, width, layer.units))
    return layer(*args, **kwargs)


def jit_compile() -> str | bool:
    """What `Model.compile` should be told: XLA on JAX, if every layer allows it.

    On TensorFlow XLA makes training on a CPU several times slower, and on
    torch Keras runs eagerly.
    """
    return "auto" if keras.backend.backend() == "jax" else False


def count_parameters(model: keras.Model) -> int:
    """Trainable parameters; the states of random generators are not counted."""
    return sum(int(ops.size(weight)) for weight in model.trainable_weights)


def convolution(
    width: int, kernel_size: int, name: str, dtype: str | None = None, **options: Any
) -> keras.layers.Layer:
    return layers.Conv2D(
        width,
        kernel_size,
        padding="same",
        kernel_initializer="lecun_normal",
        data_format=DATA_FORMAT,
        dtype=dtype or network_dtype(),
        name=name,
        **options,
    )


def dense(
    width: int, name: str, activation: str | None = None, dtype: str | None = None
) -> keras.layers.Layer:
    return layers.Dense(
        width,
        activation,
        kernel_initializer="lecun_normal",
        dtype=dtype or network_dtype(),
        name=name,
    )


def normalization(name: str, dtype: str | None = None) -> keras.layers.Layer:
    return layers.LayerNormalization(epsilon=1e-6, dtype=dtype or network_dtype(), name=name)
