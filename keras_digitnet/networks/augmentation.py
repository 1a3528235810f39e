"""Random geometric layers, and what all random layers share; on every backend."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

NODES = 6  # along each side, from which a smooth field is drawn


class RandomImageLayer(keras.layers.Layer):
    """Changes `(N, H, W, 1)` images in training, by draws of its own, and leaves them else.

    A subclass says how in `change(images)`. It computes in float32 unless told
    otherwise, under any dtype policy: positions of pixels need it.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 4 or input_shape[-1] != 1:
            raise ValueError(
                f"{type(self).__name__} takes (N, H, W, 1) images; received: shape {input_shape}."
            )
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        return self.change(images) if training else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def draws(self, images: Any, count: int) -> Any:
        """`(N, count)` numbers from 0 to 1, evenly drawn: all that a call needs, at once.

        Each draw moves the generator's state on, and waits for it on torch.
        """
        shape = (ops.shape(images)[0], count)
        return keras.random.uniform(shape, dtype=images.dtype, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomAffine(RandomImageLayer):
    """Rotates, shifts, zooms, slants and bends each training image by an amount of its own.

    All are composed into one map and the image is resampled once, which
    blurs a thin stroke less than one resample each, and stays inside the
    compiled step on JAX. Outside the image is 0, the black of MNIST.

    Input and output: `(N, H, W, 1)` float.

    Args:
        rotation: Largest rotation either way, in degrees.
        shift: Largest shift either way and axis, as a fraction of the side.
        zoom: Largest change of size either way, as a fraction; the height
            changes by up to half as much again on its own.
        shear: Largest slant either way: columns a row.
        elastic: Standard deviation of the smooth displacement of the pixels
            (after Simard et al., ICDAR 2003), in pixels; 0 bends nothing.
        seed: Integer seed, or `None` to draw one.
    """

    def __init__(
        self,
        rotation: float,
        shift: float,
        zoom: float,
        shear: float = 0.0,
        elastic: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed, **kwargs)
        self.rotation = rotation
        self.shift = shift
        self.zoom = zoom
        self.shear = shear
        self.elastic = elastic

    def change(self, images: Any) -> Any:
        height, width = images.shape[1:3]
        largest = (
            math.radians(self.rotation),
            self.zoom,
            self.zoom / 2,
            self.shift * height,
            self.shift * width,
            self.shear,
        )
        nodes = 2 * NODES**2 if self.elastic > 0 else 0
        draws = self.draws(images, len(largest) + nodes)
        amounts = (2 * draws[:, : len(largest)] - 1) * ops.convert_to_tensor(largest, images.dtype)
        angle, zoom, taller, down, right, shear = ops.unstack(amounts, len(largest), axis=1)
        bend = 0.0
        if nodes:
            of_nodes = ops.reshape(normal_draws(draws[:, len(largest) :]), (2, -1, NODES**2))
            bend = self.elastic * smooth_field(of_nodes, height, width)
        return self.transform(
            images,
            angle=angle,
            zoom=((1 + zoom) * (1 + taller), 1 + zoom),
            shift=(down, right),
            shear=shear,
            bend=bend,
        )

    def transform(
        self,
        images: Any,
        angle: Any,
        zoom: tuple[Any, Any],
        shift: tuple[Any, Any],
        shear: Any,
        bend: Any = 0.0,
    ) -> Any:
        """Bends, slants, zooms about the centre, rotates counter-clockwise, then shifts; bilinear.

        Args:
            images: `(N, H, W, 1)` float.
            angle: `(N,)`, radians.
            zoom: Of the height and the width, each `(N,)`; 2 doubles it.
            shift: Downwards and to the right, each `(N,)`, pixels.
            shear: `(N,)`, columns to the left for each row downwards.
            bend: `(2, N, H*W)`, pixels; how far off, in rows and columns,
                each pixel of the result is taken from. 0 for nowhere.
        """
        height, width = images.shape[1], images.shape[2]
        cosine, sine = ops.cos(angle)[:, None], ops.sin(angle)[:, None]
        # Each output pixel, as an offset from the shifted centre ...
        pixels = ops.arange(height * width, dtype="int32")
        offset_y = ops.cast(pixels // width, images.dtype) - (height - 1) / 2
        offset_x = ops.cast(pixels % width, images.dtype) - (width - 1) / 2
        offset_y = offset_y[None, :] - shift[0][:, None]  # (N, H*W)
        offset_x = offset_x[None, :] - shift[1][:, None]
        # ... is turned, scaled and slanted back to where it came from. y points down, so
        # this inverse of a counter-clockwise turn has its signs the other way.
        source_y = (cosine * offset_y + sine * offset_x) / zoom[0][:, None]
        source_x = (cosine * offset_x - sine * offset_y) / zoom[1][:, None]
        source_x = source_x + shear[:, None] * source_y
        bend = ops.zeros((2, 1, 1), images.dtype) + bend
        source_y = source_y + bend[0] + (height - 1) / 2
        source_x = source_x + bend[1] + (width - 1) / 2
        return ops.reshape(_sample(images, source_y, source_x), (-1, height, width, 1))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rotation": self.rotation,
            "shift": self.shift,
            "zoom": self.zoom,
            "shear": self.shear,
            "elastic": self.elastic,
        }


def normal_draws(draws: Any) -> Any:
    """Even draws from 0 to 1 as normal ones, 5 standard deviations out at most."""
    nearly = 1 - 1e-7  # 1 itself would be infinitely far out
    return math.sqrt(2) * ops.erfinv(ops.clip(2 * draws - 1, -nearly, nearly))


def smooth_field(draws: Any, height: int, width: int) -> Any:
    """`(N, H*W)` smooth fields of unit variance from `(N, NODES**2)` normal draws."""
    return ops.matmul(draws, ops.cast(_smoothing(height, width), draws.dtype))


@functools.cache
def _smoothing(height: int, width: int) -> np.ndarray:
    """`(NODES**2, H*W)`: how much each node of a grid counts at each pixel, a Gaussian."""

    def along(pixels: int) -> np.ndarray:
        nodes = np.linspace(0, pixels - 1, NODES)
        spacing = nodes[1] - nodes[0]
        return np.exp(-0.5 * ((np.arange(pixels) - nodes[:, None]) / spacing) ** 2)

    weights = np.einsum("iy,jx->ijyx", along(height), along(width))
    weights = weights.reshape(NODES**2, height * width)
    return (weights / np.sqrt((weights**2).sum(axis=0))).astype("float32")


def _sample(images: Any, y: Any, x: Any) -> Any:
    """`(N, P)` bilinear samples of `(N, H, W, 1)` images at `(N, P)` pixel positions."""
    count, (height, width) = ops.shape(images)[0], images.shape[1:3]
    # A ring of zeros takes every position that lies outside, without a mask.
    padded = ops.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    upper, lower = padded[:, :-1], padded[:, 1:]
    corners = upper[..., :-1], upper[..., 1:], lower[..., :-1], lower[..., 1:]
    squares = ops.reshape(ops.stack(corners, axis=-1), (-1, 4))
    y = ops.clip(y + 1, 0, height + 1)
    x = ops.clip(x + 1, 0, width + 1)
    top = ops.minimum(ops.floor(y), height)
    left = ops.minimum(ops.floor(x), width)
    down, right = y - top, x - left
    first = ops.arange(count, dtype="int32")[:, None] * ((height + 1) * (width + 1))
    square = first + ops.cast(top, "int32") * (width + 1) + ops.cast(left, "int32")
    pixels = ops.take(squares, square, axis=0)  # (N, P, 4), by one look-up
    upper = pixels[..., 0] * (1 - right) + pixels[..., 1] * right
    lower = pixels[..., 2] * (1 - right) + pixels[..., 3] * right
    return upper * (1 - down) + lower * down


class _InFloat32:
    """A random layer of Keras, under any floatx, which it takes for some of what it draws."""

    def call(self, data: Any, training: bool = True) -> Any:
        floatx = keras.config.floatx()
        keras.config.set_floatx("float32")
        try:
            return super().call(data, training=training)  # type: ignore[misc]
        finally:
            keras.config.set_floatx(floatx)


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomRotation(_InFloat32, keras.layers.RandomRotation):
    """Keras's layer, whatever floatx is."""


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomTranslation(_InFloat32, keras.layers.RandomTranslation):
    """Keras's layer, whatever floatx is."""


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomZoom(_InFloat32, keras.layers.RandomZoom):
    """Keras's layer, whatever floatx is."""
