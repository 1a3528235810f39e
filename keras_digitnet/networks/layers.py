"""Layers that Keras lacks; each runs, and can be compiled, on every backend."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_digitnet")
class GrowTo(keras.layers.Layer):
    """Doubles the size of a map by nearest-neighbour upsampling and crops it to that of another.

    Input: `(N, h, w, C)` and `(N, H, W, D)` with H of 2h or 2h - 1, and W
    likewise. Output: `(N, H, W, C)`.
    """

    def call(self, inputs: tuple[Any, Any]) -> Any:
        small, like = inputs
        large = ops.repeat(ops.repeat(small, 2, axis=1), 2, axis=2)
        height, width = ops.shape(like)[1:3]
        return large[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        small, like = input_shape
        return (*like[:3], small[3])


class PerPixelDense(keras.layers.Layer):
    """A dense layer, which is shared, applied to every pixel of a map as one matrix product.

    On a map TensorFlow computes shapes at run time, which adds a dozen
    operations per layer to every exported file; on rows it does not.

    Input: `(N, H, W, C)`. Output: `(N, H, W, units)`.
    """

    def __init__(self, dense: keras.layers.Dense) -> None:
        super().__init__(dtype=dense.dtype_policy, name=f"{dense.name}_per_pixel")
        self.dense = dense

    def call(self, inputs: Any) -> Any:
        height, width, channels = inputs.shape[1:]
        rows = self.dense(ops.reshape(inputs, (-1, channels)))
        return ops.reshape(rows, (-1, height, width, self.dense.units))


class PerPixelNormalization(keras.layers.Layer):
    """A layer normalization over the channels, which is shared, of the pixels as rows.

    Written as ONNX Runtime expects it, which computes it as one operation. On
    rows, converters do not move the transpositions of convolutions into it.

    Input and output: `(N, H, W, C)`.
    """

    def __init__(self, normalization: keras.layers.LayerNormalization) -> None:
        super().__init__(dtype=normalization.dtype_policy, name=f"{normalization.name}_per_pixel")
        self.normalization = normalization

    def call(self, inputs: Any) -> Any:
        own = self.normalization
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        centred = rows - ops.mean(rows, axis=-1, keepdims=True)
        variance = ops.mean(ops.power(centred, 2.0), axis=-1, keepdims=True)
        rows = centred / ops.sqrt(variance + own.epsilon) * own.gamma + own.beta
        return ops.reshape(rows, ops.shape(inputs))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_digitnet")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's layer, with the same weights and config, but faster under XLA on a CPU.

    There, depthwise convolutions are many times slower than matrix products.
    On small maps each kernel is expanded into its matrix from input to output
    pixels; a kernel as large as the map is a weighted sum. Everywhere else
    this is Keras's own convolution.
    """

    # On larger maps the matrices cost more than they save.
    _max_pixels = 256

    def call(self, inputs: Any) -> Any:
        height, width, channels = inputs.shape[1:]
        plain = (
            self.strides == (1, 1)
            and self.dilation_rate == (1, 1)
            and self.data_format == "channels_last"
            and self.depth_multiplier == 1
        )
        pixels = height * width if height and width else math.inf  # a size may be variable
        small = self.padding == "same" and pixels <= self._max_pixels
        whole = self.padding == "valid" and self.kernel_size == (height, width)
        if not (plain and (small or whole) and _on_xla_cpu()):
            return super().call(inputs)
        kernel = ops.reshape(self.kernel, (-1, channels))
        pixels = ops.reshape(inputs, (-1, height * width, channels))
        if whole:
            outputs = ops.reshape(ops.sum(pixels * kernel, axis=1), (-1, 1, 1, channels))
        else:
            taps = _taps(height, width, self.kernel_size)
            matrices = ops.einsum("tc,tpq->cpq", kernel, ops.cast(taps, kernel.dtype))
            outputs = ops.einsum("npc,cpq->nqc", pixels, matrices)
            outputs = ops.reshape(outputs, (-1, height, width, channels))
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs) if self.activation is not None else outputs


def _on_xla_cpu() -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


@functools.cache
def _taps(height: int, width: int, kernel_size: tuple[int, int]) -> np.ndarray:
    """`(taps, pixels, pixels)`: 1 where a kernel's tap connects an input to an output pixel."""
    rows, columns = (index.ravel() for index in np.indices((height, width)))
    # "same" padding puts the extra pixel of an even kernel after the image.
    top, left = (kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2
    down = rows[:, None] - rows[None, :] + top  # (input, output)
    right = columns[:, None] - columns[None, :] + left
    inside = (down >= 0) & (down < kernel_size[0]) & (right >= 0) & (right < kernel_size[1])
    tap = np.where(inside, down * kernel_size[1] + right, -1)
    return np.stack([tap == number for number in range(math.prod(kernel_size))]).astype("float32")
