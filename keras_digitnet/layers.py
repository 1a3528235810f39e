"""The Keras layers that Keras lacks; each runs and jits on every backend."""

import functools
import itertools
import math
from typing import Any

import keras
import numpy as np
from keras import ops


class _RandomImageLayer(keras.layers.Layer):
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
class RandomAffine(_RandomImageLayer):
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
        nodes = 2 * _NODES**2 if self.elastic > 0 else 0
        draws = self.draws(images, len(largest) + nodes)
        amounts = (2 * draws[:, : len(largest)] - 1) * ops.convert_to_tensor(largest, images.dtype)
        angle, zoom, taller, down, right, shear = ops.unstack(amounts, len(largest), axis=1)
        bend = 0.0
        if nodes:
            of_nodes = ops.reshape(_normal(draws[:, len(largest) :]), (2, -1, _NODES**2))
            bend = self.elastic * _smooth_field(of_nodes, height, width)
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


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomPen(_RandomImageLayer):
    """Draws a share of the training images anew with another pen: bolder, harder or softer.

    The image is blurred, so that corners round off and gaps close, and what is
    brighter than a level of its own becomes the stroke: scans and binarized
    pictures look so.

    Input and output: `(N, H, W, 1)` float in [0, 1].

    Args:
        rate: Share of the images that are drawn anew, from 0 to 1.
        seed: Integer seed, or `None` to draw one.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = rate

    def change(self, images: Any) -> Any:
        draws = ops.reshape(self.draws(images, 3), (-1, 3, 1, 1, 1))
        level = 0.2 + 0.4 * draws[:, 0]
        hardness = 2.5 + 3.5 * draws[:, 1]  # of the stroke's rim; the softest leaves paper black
        blurred = _blurred(images)
        drawn = ops.clip(0.5 + hardness * (blurred - level), 0.0, 1.0)
        return ops.where(draws[:, 2] < self.rate, drawn, images)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


def _blurred(images: Any) -> Any:
    """`(N, H, W, 1)` through a Gaussian."""
    taps = ops.cast(_gaussian(), images.dtype)
    if keras.backend.backend() == "jax":
        return _shifted_sum(images, taps)
    kernel = ops.reshape(taps, (_TAPS, _TAPS, 1, 1))
    return ops.conv(images, kernel, padding="same", data_format="channels_last")


@functools.cache
def _gaussian(deviation: float = 0.8) -> np.ndarray:
    """`(1, _TAPS**2)` weights of a blur, which sum to 1; in pixels."""
    along = np.exp(-0.5 * ((np.arange(_TAPS) - _TAPS // 2) / deviation) ** 2)
    weights = np.outer(along, along)
    return (weights / weights.sum()).astype("float32").reshape(1, -1)


@keras.saving.register_keras_serializable(package="keras_digitnet")
class RandomDegradation(_RandomImageLayer):
    """Corrupts a share of the training images as pens, paper and cameras do.

    An image that is chosen passes through these steps, each with an even
    chance: turned bars of any grey lie on it (after Random Erasing, Zhong et
    al., arXiv 1708.04896); a filter of random positive taps blurs it (after
    Xu et al., arXiv 2007.13003); noise is added; its paper turns grey and its
    contrast falls; a smooth stain brightens it.

    Input and output: `(N, H, W, 1)` float in [0, 1].

    Args:
        rate: Share of the images that are corrupted, from 0 to 1.
        seed: Integer seed, or `None` to draw one.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = rate

    def change(self, images: Any) -> Any:
        steps = self._steps(*images.shape[1:3])
        ranges = [each for _, of_step, _ in steps for each in of_step]
        normals = [count for *_, count in steps]
        draws = self.draws(images, 1 + len(steps) + len(ranges) + sum(normals))
        choices, even, normal = ops.split(
            draws, [1 + len(steps), 1 + len(steps) + len(ranges)], axis=1
        )
        low, high, neutral = (
            ops.convert_to_tensor(each, images.dtype) for each in zip(*ranges, strict=True)
        )
        step_of = np.repeat(np.arange(len(steps)), [len(of_step) for _, of_step, _ in steps])
        chosen = ops.take(self._chosen(choices), step_of, axis=1)
        amounts = ops.where(chosen, low + (high - low) * even, neutral)
        amounts = ops.reshape(amounts, (-1, len(ranges), 1, 1, 1))
        amounts = iter(ops.unstack(amounts, len(ranges), axis=1))
        normal = ops.split(_normal(normal), np.cumsum(normals[:-1]).tolist(), axis=1)
        for (step, of_step, _), numbers in zip(steps, normal, strict=True):
            images = step(images, numbers, *itertools.islice(amounts, len(of_step)))
        return ops.clip(images, 0.0, 1.0)

    def _steps(self, height: int, width: int) -> tuple[tuple[Any, Any, int], ...]:
        """Each step, its amounts, and how many normal draws an image it takes.

        An amount is `(lowest, highest, neutral)`. With the neutral ones a step
        leaves an image as it is, which costs less than choosing between two.
        """
        bar = (
            (0, height, 0),  # of its middle, down
            (0, width, 0),  # and to the right
            (0, math.pi, 0),  # its angle
            (1, height / 2, 0),  # half its length
            (0.5, 3, 0),  # half its breadth
            (0, 1, 0),  # its grey
        )
        return (
            (self._bar, bar, 0),
            (self._bar, bar, 0),
            (self._filter, ((0, 3, 0), (0, 0, _ALL)), _TAPS**2),
            (self._noise, ((0, 0.3, 0),), height * width),
            (self._paper, ((0, 0.5, 0), (0.25, 1, 1)), 0),
            (self._stain, ((0, 0.6, 0),), _NODES**2),
        )

    def _chosen(self, choices: Any) -> Any:
        """`(N, steps)` bool, from a draw of the image's own and one of each step."""
        return ops.logical_and(choices[:, :1] < self.rate, choices[:, 1:] < 0.5)

    # Each step takes `(N, H, W, 1)`, its `(N, count)` normal draws, and `(N, 1, 1, 1)` amounts.

    def _bar(
        self,
        images: Any,
        _: Any,
        top: Any,
        left: Any,
        angle: Any,
        length: Any,
        breadth: Any,
        grey: Any,
    ) -> Any:
        height, width = images.shape[1:3]
        down = ops.arange(height, dtype=images.dtype)[:, None, None] - top
        right = ops.arange(width, dtype=images.dtype)[:, None] - left
        cosine, sine = ops.cos(angle), ops.sin(angle)
        along = down * cosine + right * sine
        across = right * cosine - down * sine
        inside = ops.logical_and(ops.abs(along) < length, ops.abs(across) < breadth)
        return ops.where(inside, grey, images)

    def _filter(self, images: Any, normal: Any, sharpness: Any, middle: Any) -> Any:
        only_middle = np.arange(_TAPS**2) == _TAPS**2 // 2
        logits = ops.reshape(sharpness, (-1, 1)) * normal
        logits = logits + ops.reshape(middle, (-1, 1)) * ops.cast(only_middle, images.dtype)
        return _filtered(images, ops.softmax(logits))

    def _noise(self, images: Any, normal: Any, amount: Any) -> Any:
        return images + amount * ops.reshape(normal, ops.shape(images))

    def _paper(self, images: Any, _: Any, black: Any, contrast: Any) -> Any:
        return black + contrast * (1 - black) * images

    def _stain(self, images: Any, normal: Any, amount: Any) -> Any:
        field = _smooth_field(normal, *images.shape[1:3])
        return images + amount * ops.sigmoid(2 * ops.reshape(field, ops.shape(images)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


_NODES = 6  # along each side, from which a smooth field is drawn
_TAPS = 5  # of a filter, along each side
_ALL = 99.0  # as a tap's logit: it has all the weight, however the others are drawn


def _normal(draws: Any) -> Any:
    """Even draws from 0 to 1 as normal ones, 5 standard deviations out at most."""
    nearly = 1 - 1e-7  # 1 itself would be infinitely far out
    return math.sqrt(2) * ops.erfinv(ops.clip(2 * draws - 1, -nearly, nearly))


def _shifted_sum(images: Any, taps: Any) -> Any:
    """`_filtered`, where XLA makes one loop of it; its convolutions of one channel are slow."""
    height, width = images.shape[1:3]
    edge = _TAPS // 2
    padded = ops.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    taps = ops.reshape(taps, (-1, 1, 1, _TAPS**2))
    return sum(
        padded[:, top : top + height, left : left + width]
        * taps[..., top * _TAPS + left : top * _TAPS + left + 1]
        for top in range(_TAPS)
        for left in range(_TAPS)
    )


def _filtered(images: Any, taps: Any) -> Any:
    """`(N, H, W, 1)`: each image through a filter of its own, `(N, _TAPS**2)`."""
    if keras.backend.backend() == "jax":
        return _shifted_sum(images, taps)
    # Elsewhere it is one operation in place of 75: the images are the channels.
    channels = ops.transpose(images, (3, 1, 2, 0))
    kernel = ops.reshape(ops.transpose(taps), (_TAPS, _TAPS, -1, 1))
    filtered = ops.depthwise_conv(channels, kernel, padding="same", data_format="channels_last")
    return ops.transpose(filtered, (3, 1, 2, 0))


def _smooth_field(draws: Any, height: int, width: int) -> Any:
    """`(N, H*W)` smooth fields of unit variance from `(N, _NODES**2)` normal draws."""
    return ops.matmul(draws, ops.cast(_smoothing(height, width), draws.dtype))


@functools.cache
def _smoothing(height: int, width: int) -> np.ndarray:
    """`(_NODES**2, H*W)`: how much each node of a grid counts at each pixel, a Gaussian."""

    def along(pixels: int) -> np.ndarray:
        nodes = np.linspace(0, pixels - 1, _NODES)
        spacing = nodes[1] - nodes[0]
        return np.exp(-0.5 * ((np.arange(pixels) - nodes[:, None]) / spacing) ** 2)

    weights = np.einsum("iy,jx->ijyx", along(height), along(width))
    weights = weights.reshape(_NODES**2, height * width)
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


@keras.saving.register_keras_serializable(package="keras_digitnet")
class GrowTo(keras.layers.Layer):
    """Makes a map twice as large, each pixel four times, and cuts it to the size of another.

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


@keras.saving.register_keras_serializable(package="keras_digitnet")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's layer, with the same weights and config, written for XLA's CPU where that computes.

    XLA runs depthwise convolutions on a CPU many times slower than matrix
    products. On a small map one channel's convolution is a fixed matrix from
    input to output pixels, so there each kernel is spread into its matrix and
    applied as one; a kernel as large as the map is a weighted sum. Everywhere
    else this is Keras's own convolution.
    """

    # Beyond so many pixels a map's matrices cost more than they save.
    _most_pixels = 256

    def call(self, inputs: Any) -> Any:
        height, width, channels = inputs.shape[1:]
        plain = (
            self.strides == (1, 1)
            and self.dilation_rate == (1, 1)
            and self.data_format == "channels_last"
            and self.depth_multiplier == 1
        )
        pixels = height * width if height and width else math.inf  # a size may be open
        spread = self.padding == "same" and pixels <= self._most_pixels
        whole = self.padding == "valid" and self.kernel_size == (height, width)
        if not (plain and (spread or whole) and _on_xla_cpu()):
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
    """`(taps, pixels, pixels)`: 1 where a kernel's tap leads from an input to an output pixel."""
    rows, columns = (index.ravel() for index in np.indices((height, width)))
    # "same" padding puts the even kernel's odd pixel after the image.
    top, left = (kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2
    down = rows[:, None] - rows[None, :] + top  # (input, output)
    right = columns[:, None] - columns[None, :] + left
    inside = (down >= 0) & (down < kernel_size[0]) & (right >= 0) & (right < kernel_size[1])
    tap = np.where(inside, down * kernel_size[1] + right, -1)
    return np.stack([tap == number for number in range(math.prod(kernel_size))]).astype("float32")
