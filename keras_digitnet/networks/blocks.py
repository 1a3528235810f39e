"""Building blocks of the networks: the ConvNeXt block, configured layers, weight helpers."""

from typing import Any

import keras
from keras import layers, ops

from keras_digitnet.config import ModelConfig, ReaderConfig
from keras_digitnet.networks.layers import DepthwiseConv2D

DATA_FORMAT = "channels_last"
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")


def network_dtype() -> str:
    """The dtype policy of the layers that may mix precisions, one of `DTYPES`.

    The process's policy if it is `mixed_bfloat16` or `mixed_float16`, else
    float32. Every layer gets it and `DATA_FORMAT` explicitly, so that Keras's
    other global settings do not apply.
    """
    policy = str(keras.config.dtype_policy().name)
    return policy if policy in DTYPES else "float32"


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
        # Keras counts all channels in the fan-in of a depthwise kernel, although each output
        # depends on one of them; the scale cancels that.
        depthwise_initializer=keras.initializers.VarianceScaling(width, "fan_in"),
        data_format=DATA_FORMAT,
        dtype=network_dtype(),
        name=f"{name}_depthwise",
    )(x)
    branch = normalization(f"{name}_norm")(branch)
    branch = dense(config.expansion * width, f"{name}_expand", "relu")(branch)
    branch = dense(width, f"{name}_project")(branch)
    return layers.Add(dtype=network_dtype(), name=f"{name}_add")([x, branch])


def convolution(
    width: int, kernel_size: int, name: str, dtype: str | None = None, **options: Any
) -> keras.layers.Layer:
    """A convolution to `width` channels with the settings common to all networks."""
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
    """A dense layer to `width` channels with the settings common to all networks."""
    return layers.Dense(
        width,
        activation,
        kernel_initializer="lecun_normal",
        dtype=dtype or network_dtype(),
        name=name,
    )


def normalization(name: str, dtype: str | None = None) -> keras.layers.Layer:
    """Layer normalization over the channels."""
    return layers.LayerNormalization(epsilon=1e-6, dtype=dtype or network_dtype(), name=name)


def fold_temperature(model: keras.Model, temperature: float) -> None:
    """Divides a model's logits by `temperature`, by scaling the weights of the last layer."""
    layer = model.get_layer("logits")
    layer.set_weights([weight / temperature for weight in layer.get_weights()])


def copy_weights(trained: keras.Model, model: keras.Model) -> bool:
    """Copies the trainable weights of a network to one of the same kind, by their names.

    `model` may have more blocks: those that `trained` lacks pass their input on
    unchanged at first, so both networks compute the same (Net2DeeperNet, Chen et
    al., arXiv 1511.05641).

    Returns:
        Whether the networks are alike; if not, `model` is left as it was.
    """
    known = {weight.path: weight for weight in trained.trainable_weights}
    own = {weight.path: weight for weight in model.trainable_weights}
    added = [path for path in own if path not in known]
    blocks = {path.rpartition("_")[0] for path in added}
    if (
        not known.keys() <= own.keys()
        or any(known[path].shape != own[path].shape for path in known)
        or any(f"{block}_project/kernel" not in added for block in blocks)
    ):
        return False
    for path, weight in known.items():
        own[path].assign(weight)
    for block in blocks:
        for name in ("kernel", "bias"):
            weight = own[f"{block}_project/{name}"]
            weight.assign(ops.zeros(weight.shape, weight.dtype))
    return True


def count_parameters(model: keras.Model) -> int:
    """The number of trainable parameters."""
    return sum(int(ops.size(weight)) for weight in model.trainable_weights)


def jit_compile() -> str | bool:
    """The `jit_compile` argument for `Model.compile`: XLA on JAX only.

    On TensorFlow, XLA makes training on a CPU several times slower; on torch,
    Keras runs eagerly.
    """
    return "auto" if keras.backend.backend() == "jax" else False
