"""Random geometric layers, and the base class of all random layers; for every backend."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

NODES = 6  # grid points per side that a smooth field is interpolated from


class RandomImageLayer(keras.layers.Layer):
    """Augments `(N, H, W, 1)` images in training and returns them unchanged otherwise.

    Subclasses implement `augment(images)`. Computes in float32 by default,
    under any dtype policy, because pixel positions need that precision.

    Args:
        seed: Integer seed, or `None` for a random one.
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
        return self.augment(images) if training else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def draws(self, images: Any, count: int) -> Any:
        """`(N, count)` uniform samples from [0, 1).

        Draw all that a call needs at once: each call updates the generator's
        state, which synchronizes on torch.
        """
        shape = (ops.shape(images)[0], count)
        return keras.random.uniform(shape, dtype=images.dtype, seed=self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomAffine(RandomImageLayer):
    """Randomly rotates, shifts, zooms, shears and elastically distorts each training image.

    All transforms are composed and the image is resampled once, which blurs
    thin strokes less than one resampling each, and stays inside the compiled
    step on JAX. Pixels outside the image are 0, MNIST's black.

    Input and output: `(N, H, W, 1)` float.

    Args:
        rotation: Maximum rotation in either direction, in degrees.
        shift: Maximum shift along each axis, as a fraction of the side.
        zoom: Maximum change of size, as a fraction; the height is scaled by up
            to half as much again independently.
        shear: Maximum shear in either direction, in columns per row.
        elastic: Standard deviation of the smooth displacement of the pixels
            (after Simard et al., ICDAR 2003), in pixels; 0 for none.
        seed: Integer seed, or `None` for a random one.
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

    def augment(self, images: Any) -> Any:
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
        """Distorts, shears, zooms about the centre, rotates counter-clockwise, then shifts.

        Resamples bilinearly and keeps the shape.

        Args:
            images: `(N, H, W, 1)` float.
            angle: `(N,)`, radians.
            zoom: Factors of the height and the width, each `(N,)`.
            shift: Downwards and to the right, each `(N,)`, pixels.
            shear: `(N,)`, columns to the left per row downwards.
            bend: `(2, N, H*W)`, pixels; the displacement, in rows and columns,
                of the position that each output pixel is sampled at; or 0.
        """
        height, width = images.shape[1], images.shape[2]
        cosine, sine = ops.cos(angle)[:, None], ops.sin(angle)[:, None]
        # The offset of each output pixel from the shifted centre ...
        pixels = ops.arange(height * width, dtype="int32")
        offset_y = ops.cast(pixels // width, images.dtype) - (height - 1) / 2
        offset_x = ops.cast(pixels % width, images.dtype) - (width - 1) / 2
        offset_y = offset_y[None, :] - shift[0][:, None]  # (N, H*W)
        offset_x = offset_x[None, :] - shift[1][:, None]
        # ... is rotated, scaled and sheared back to its source. y points down, so this inverse
        # of a counter-clockwise rotation has the opposite signs.
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
    """Maps uniform samples from [0, 1) to standard normal ones within 5 standard deviations."""
    limit = 1 - 1e-7  # `erfinv` is infinite at 1
    return math.sqrt(2) * ops.erfinv(ops.clip(2 * draws - 1, -limit, limit))


def smooth_field(draws: Any, height: int, width: int) -> Any:
    """`(N, H*W)` smooth fields of unit variance from `(N, NODES**2)` normal samples."""
    return ops.matmul(draws, ops.cast(_smoothing(height, width), draws.dtype))


@functools.cache
def _smoothing(height: int, width: int) -> np.ndarray:
    """`(NODES**2, H*W)`: the Gaussian weight of each grid point at each pixel."""

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
    # With a border of zeros, positions outside need no mask.
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
    pixels = ops.take(squares, square, axis=0)  # (N, P, 4), in one gather
    upper = pixels[..., 0] * (1 - right) + pixels[..., 1] * right
    lower = pixels[..., 2] * (1 - right) + pixels[..., 3] * right
    return upper * (1 - down) + lower * down


class _InFloat32:
    """A mixin for Keras's random layers, which sample in `floatx`: calls them in float32."""

    def call(self, data: Any, training: bool = True) -> Any:
        floatx = keras.config.floatx()
        keras.config.set_floatx("float32")
        try:
            return super().call(data, training=training)  # type: ignore[misc]
        finally:
            keras.config.set_floatx(floatx)


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomRotation(_InFloat32, keras.layers.RandomRotation):
    """Keras's layer, independent of `floatx`."""


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomTranslation(_InFloat32, keras.layers.RandomTranslation):
    """Keras's layer, independent of `floatx`."""


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomZoom(_InFloat32, keras.layers.RandomZoom):
    """Keras's layer, independent of `floatx`."""
