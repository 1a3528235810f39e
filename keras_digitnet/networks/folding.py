"""Deployed networks in fewer operations, for runtimes in which each of them costs."""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_digitnet.networks.layers import PerPixelDense, PerPixelNormalization


def fold_normalizations(inference: keras.Model) -> keras.Model:
    """Rewrites a network that `build_inference_model` has built; the function stays the same.

    The scale and offset of a normalization become part of the kernel and bias of
    the layers after it, unless these pad its output. Dense layers on a map
    become convolutions of one pixel, which need no other shapes.

    Args:
        inference: From images to probabilities; its layers are shared.

    Returns:
        A model with the same inputs and outputs. Folded weights are constants.
    """
    return keras.models.clone_model(
        inference, clone_function=lambda layer: layer, call_function=_Folding()
    )


def fuse_normalizations(deployed: keras.Model) -> keras.Model:
    """Rewrites a network of maps of any size; the function stays the same.

    Each normalization over the channels becomes one operation in ONNX Runtime.

    Args:
        deployed: A network that `build_detection_model` has built; its layers
            are shared.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_over_channels(layer, args[0]):
            return PerPixelNormalization(layer)(args[0])
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        deployed, clone_function=lambda layer: layer, call_function=call
    )


class _Folding:
    """Calls each layer in turn in its folded form."""

    def __init__(self) -> None:
        # By the identity of a normalization's output: that output, which must stay alive; what it
        # was before scale and offset; and these two. A tensor that nothing reads is not computed.
        self._normalized: dict[int, tuple[Any, Any, np.ndarray, np.ndarray]] = {}

    def __call__(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0]
        if _is_over_channels(layer, x):
            return self._normalize(layer, x)
        if isinstance(layer, PerPixelDense):
            x, kernel, bias = self._folded(layer.dense, x)
            return layer.dense.activation(ops.conv(x, kernel[None, None]) + bias)
        if isinstance(layer, layers.Dense):
            x, kernel, bias = self._folded(layer, x)
            return layer.activation(ops.matmul(x, kernel) + bias)
        if _is_unpadded(layer, x):
            x, kernel, bias = self._folded(layer, x)
            return layer.activation(ops.conv(x, kernel, layer.strides, "valid") + bias)
        if isinstance(layer, layers.Flatten):  # Keras's own computes a shape
            return ops.reshape(x, (-1, math.prod(x.shape[1:])))
        return layer(*args, **kwargs)

    def _normalize(self, layer: keras.layers.LayerNormalization, x: Any) -> Any:
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        before = centred * ops.rsqrt(variance + layer.epsilon)
        scale, offset = map(ops.convert_to_numpy, (layer.gamma, layer.beta))
        output = before * scale + offset
        self._normalized[id(output)] = output, before, scale, offset
        return output

    def _folded(self, layer: Any, x: Any) -> tuple[Any, np.ndarray, np.ndarray]:
        """The input, kernel and bias with which the layer computes the same for `x`."""
        kernel = ops.convert_to_numpy(layer.kernel)
        units = kernel.shape[-1]
        bias = ops.convert_to_numpy(layer.bias) if layer.use_bias else np.zeros(units, np.float32)
        if id(x) not in self._normalized:
            return x, kernel, bias
        _, before, scale, offset = self._normalized[id(x)]
        shift = (kernel * offset[:, None]).reshape(-1, units).sum(axis=0)
        return before, kernel * scale[:, None], bias + shift


def _is_over_channels(layer: Any, x: Any) -> bool:
    """Whether the layer normalizes each pixel, or row, with a scale and an offset."""
    return (
        isinstance(layer, layers.LayerNormalization)
        and layer.axis in ([-1], [len(x.shape) - 1])
        and layer.scale
        and layer.center
        and not layer.rms_scaling
    )


def _is_unpadded(layer: Any, x: Any) -> bool:
    """Whether the layer is a convolution that reads no pixel outside the map.

    An offset folded into the bias would be missing there.
    """
    if not isinstance(layer, layers.Conv2D) or layer.data_format != "channels_last":
        return False
    fits = layer.kernel_size == layer.strides and all(
        side % stride == 0 for side, stride in zip(x.shape[1:3], layer.strides, strict=True)
    )
    plain = layer.groups == 1 and layer.dilation_rate == (1, 1)
    return plain and (layer.padding == "valid" or (layer.padding == "same" and fits))
