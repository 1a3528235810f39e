import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy import ndimage

from keras_digitnet.config import ModelConfig
from keras_digitnet.data import Dataset
from keras_digitnet.networks.augmentation import RandomAffine
from keras_digitnet.networks.blocks import jit_compile
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.networks.corruption import RandomDegradation, RandomPen
from keras_digitnet.networks.layers import DepthwiseConv2D

pytestmark = pytest.mark.backends


def transform(
    images: np.ndarray,
    angle: float = 0,
    zoom: tuple[float, float] = (1, 1),
    shift: tuple[float, float] = (0, 0),
    shear: float = 0,
    bend: Any = 0.0,
) -> np.ndarray:
    """Applies one known transform to all images."""

    def each(value: float) -> Any:
        return ops.full((len(images),), value, "float32")

    result = RandomAffine(10, 0.1, 0.1).transform(
        ops.convert_to_tensor(images),
        each(math.radians(angle)),
        (each(zoom[0]), each(zoom[1])),
        (each(shift[0]), each(shift[1])),
        each(shear),
        ops.convert_to_tensor(bend, "float32"),
    )
    return ops.convert_to_numpy(result)


@pytest.fixture(scope="module")
def images(digits: Dataset) -> np.ndarray:
    return digits.test.images[:4].astype("float32") / 255


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_go_counter_clockwise(images: np.ndarray, turns: int) -> None:
    expected = np.rot90(images, turns, axes=(1, 2))
    assert np.allclose(transform(images, angle=90 * turns), expected, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_them_and_fills_with_black(images: np.ndarray) -> None:
    expected = np.zeros_like(images)
    expected[:, 3:, :-2] = images[:, :-3, 2:]
    assert np.allclose(transform(images, shift=(3, -2)), expected, atol=1e-6)


def test_a_shift_of_half_a_pixel_is_the_mean_of_two(images: np.ndarray) -> None:
    padded = np.pad(images, ((0, 0), (1, 0), (0, 0), (0, 0)))
    expected = (padded[:, :-1] + padded[:, 1:]) / 2
    assert np.allclose(transform(images, shift=(0.5, 0)), expected, atol=1e-6)


def test_a_zoom_of_two_doubles_the_picture(images: np.ndarray) -> None:
    zoomed = transform(images, zoom=(2, 2))
    # Pixel p of the result lies at 13.5 + (p - 13.5) / 2 of the image.
    position = 13.5 + (np.arange(28) - 13.5) / 2
    rows, columns = np.meshgrid(position, position, indexing="ij")
    for result, image in zip(zoomed, images, strict=True):
        expected = ndimage.map_coordinates(image[..., 0], [rows, columns], order=1)
        assert np.allclose(result[..., 0], expected, atol=1e-5)


def test_all_transforms_together_are_one_bilinear_resampling(images: np.ndarray) -> None:
    """SciPy's `affine_transform` maps output to input positions: p_in = matrix p_out + offset."""
    angle, zoom, shift, shear = 17.0, (1.15, 0.9), np.array([2.3, -1.7]), 0.2
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    back = np.array([[cosine, sine], [-sine, cosine]]) / np.array(zoom)[:, None]
    matrix = np.array([[1, 0], [shear, 1]]) @ back
    centre = np.array([13.5, 13.5])
    offset = centre - matrix @ (centre + shift)
    result = transform(images, angle, zoom, tuple(shift), shear)
    for received, image in zip(result, images, strict=True):
        # Without the border, where SciPy cuts off half a pixel.
        padded = np.pad(image[..., 0], 8)
        moved = offset + 8 - matrix @ np.array([8.0, 8.0])
        expected = ndimage.affine_transform(padded, matrix, moved, order=1)[8:-8, 8:-8]
        assert np.allclose(received[..., 0], expected, atol=1e-5)


def test_an_elastic_displacement_moves_each_pixel(images: np.ndarray) -> None:
    random = np.random.default_rng(0)
    bend = random.normal(size=(2, len(images), 28 * 28)).astype("float32")
    rows, columns = np.indices((28, 28)).reshape(2, -1)
    result = transform(images, bend=bend).reshape(len(images), -1)
    for received, image, (down, right) in zip(result, images, bend.swapaxes(0, 1), strict=True):
        # Without the border, where SciPy cuts off half a pixel.
        positions = [rows + down + 8, columns + right + 8]
        expected = ndimage.map_coordinates(np.pad(image[..., 0], 8), positions, order=1)
        assert np.allclose(received, expected, atol=1e-5)


def test_elastic_distortion_is_smooth_and_has_the_requested_strength() -> None:
    """On a ramp, brightness shows where a pixel was sampled."""
    ramp = np.tile(np.arange(28, dtype="float32"), (400, 28, 1))[..., None]
    bent = ops.convert_to_numpy(RandomAffine(0, 0, 0, elastic=1.5, seed=1)(ramp, training=True))
    moved = (bent - ramp)[:, 8:20, 8:20, 0]  # away from the black outside
    assert moved.std() == pytest.approx(1.5, rel=0.1)
    assert np.diff(moved, axis=1).std() < 0.4 * moved.std()


def test_augmentation_acts_in_training_only_and_on_each_image_independently(
    images: np.ndarray,
) -> None:
    layer = RandomAffine(10, 0.1, 0.1, seed=1)
    same = np.repeat(images[:1], 8, axis=0)
    assert np.array_equal(ops.convert_to_numpy(layer(same, training=False)), same)
    first = ops.convert_to_numpy(layer(same, training=True))
    second = ops.convert_to_numpy(layer(same, training=True))
    assert all(not np.array_equal(first[0], other) for other in first[1:])
    assert not np.array_equal(first, second)


def test_the_shift_stays_within_its_bounds() -> None:
    """Only the shift moves a dot in the middle; over many samples, its range is the bound."""
    dot = np.zeros((500, 28, 28, 1), "float32")
    dot[:, 13:15, 13:15] = 1
    moved = ops.convert_to_numpy(RandomAffine(0, 0.1, 0.0, seed=3)(dot, training=True))[..., 0]
    rows = (moved.sum(axis=2) * np.arange(28)).sum(axis=1) / moved.sum(axis=(1, 2)) - 13.5
    assert 2.5 < np.abs(rows).max() <= 2.8 + 1e-3
    assert abs(rows.mean()) < 0.3


def test_shear_and_height_stay_within_their_bounds() -> None:
    line = np.zeros((300, 28, 28, 1), "float32")
    line[:, 4:24, 13:15] = 1
    sheared = ops.convert_to_numpy(RandomAffine(0, 0, 0, shear=0.2, seed=3)(line, training=True))
    columns = (sheared[..., 0] * np.arange(28)).sum(axis=2) / sheared[..., 0].sum(axis=2).clip(1)
    shears = (columns[:, 20] - columns[:, 8]) / 12
    assert 0.18 < np.abs(shears).max() <= 0.2 + 1e-3
    square = np.zeros((300, 28, 28, 1), "float32")
    square[:, 8:20, 8:20] = 1
    zoomed = ops.convert_to_numpy(RandomAffine(0, 0, 0.2, seed=3)(square, training=True))[..., 0]
    heights, widths = zoomed[:, :, 14].sum(axis=1), zoomed[:, 14].sum(axis=1)
    assert 14 < widths.max() <= 12 * 1.2 + 0.1
    assert 1.08 < (heights / widths).max() <= 1.1 + 0.02


@pytest.mark.parametrize(("augmentation", "jits"), [("affine", True), ("layers", False)])
def test_only_the_affine_layer_can_be_compiled(augmentation: str, jits: bool) -> None:
    if keras.backend.backend() != "jax":
        pytest.skip("XLA compiles the steps on JAX only")
    model = build_model(ModelConfig(widths=(4,), depths=(1,), augmentation=augmentation))
    model.compile("adam", "mse", jit_compile=jit_compile())
    assert model.jit_compile is jits


@pytest.mark.parametrize(
    "layer",
    [RandomAffine(10, 0.1, 0.1), RandomPen(0.5), RandomDegradation(0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_colour_images_are_refused(layer: keras.layers.Layer) -> None:
    with pytest.raises(ValueError, match=r"takes \(N, H, W, 1\) images; received: shape"):
        layer.build((None, 28, 28, 3))


def test_another_pen_is_bolder_and_keeps_the_paper_black() -> None:
    bar = np.zeros((400, 28, 28, 1), "float32")
    bar[:, 4:24, 12:16] = 1
    layer = RandomPen(0.5, seed=1)
    assert np.array_equal(ops.convert_to_numpy(layer(bar, training=False)), bar)
    drawn = ops.convert_to_numpy(layer(bar, training=True))
    changed = (drawn != bar).any(axis=(1, 2, 3))
    assert 0.35 < changed.mean() < 0.55  # some pens do not change the bar
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert not drawn[..., :9, :].any()
    assert not drawn[..., 19:, :].any()
    widths = drawn[changed, 14, :, 0].sum(axis=1)  # across the middle of the bar
    assert 3.74 < widths.min() < 4.1
    assert 5.2 < widths.max() < 5.8


def test_the_given_fraction_of_training_images_is_corrupted(images: np.ndarray) -> None:
    same = np.repeat(images[:1], 600, axis=0)
    layer = RandomDegradation(0.5, seed=1)
    assert np.array_equal(ops.convert_to_numpy(layer(same, training=False)), same)
    corrupted = ops.convert_to_numpy(layer(same, training=True))
    assert corrupted.shape == same.shape
    assert 0 <= corrupted.min() <= corrupted.max() <= 1
    changed = np.abs(corrupted - same).max(axis=(1, 2, 3)) > 1e-6
    # Of the chosen half, one in 2**7 gets no step at all.
    assert changed.mean() == pytest.approx(0.5 * (1 - 2**-7), abs=0.06)
    kinds = np.unique(corrupted[changed].reshape(changed.sum(), -1).round(4), axis=0)
    assert len(kinds) == changed.sum()
    assert np.array_equal(
        ops.convert_to_numpy(RandomDegradation(0.5, seed=1)(same, training=True)), corrupted
    )


BAND, BAR, _, FILTER, NOISE, PAPER, STAIN = range(7)


class OneStep(RandomDegradation):
    """Applies one step, and no other, to every image."""

    def __init__(self, step: int) -> None:
        super().__init__(1.0, seed=1)
        self.step = step

    def _chosen(self, choices: Any) -> Any:
        count = choices.shape[1] - 1
        return ops.broadcast_to(np.arange(count) == self.step, (len(choices), count))


class WithoutBand(RandomDegradation):
    """Applies the steps that there were when the distribution was measured."""

    def _steps(self, height: int, width: int) -> Any:
        return super()._steps(height, width)[BAND + 1 :]


def after(step: int, images: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(OneStep(step)(images, training=True))


def test_each_step_corrupts_as_documented(images: np.ndarray) -> None:
    same = np.repeat(images[:1], 200, axis=0) / 4 + 0.1  # avoids clipping
    bars, stained = (after(step, same) for step in (BAR, STAIN))
    paper = after(PAPER, np.repeat(images[:1], 200, axis=0))
    for bar, image in zip(bars, same, strict=True):
        assert len(np.unique(bar[bar != image])) <= 1  # one grey
    assert (bars != same).any(axis=(1, 2, 3)).mean() > 0.9
    lowest, highest = paper.min(axis=(1, 2, 3)), paper.max(axis=(1, 2, 3))
    assert 0.4 < lowest.max() <= 0.5
    assert np.allclose((paper - lowest[:, None, None, None]).max(axis=(1, 2, 3)), highest - lowest)
    assert 0.12 <= (highest - lowest).min() < 0.4
    assert (stained > same).all()
    assert 0.5 < (stained - same).max() <= 0.6
    assert np.abs(np.diff(stained - same, axis=1)).max() < 0.2  # smooth
    noisy_grey = after(NOISE, np.full((200, 28, 28, 1), 0.5, "float32")) - 0.5
    deviations = noisy_grey.std(axis=(1, 2, 3))
    assert 0.2 < deviations.max() < 0.3  # 0.3 before clipping
    assert abs(noisy_grey.mean()) < 0.01


def test_a_band_is_inverted(images: np.ndarray) -> None:
    same = np.repeat(images[:1], 200, axis=0) / 4 + 0.1
    bands = after(BAND, same)
    inside = bands != same
    assert np.allclose(bands[inside], 1 - same[inside])
    assert inside.any(axis=(1, 2, 3)).mean() > 0.9
    widest = np.sqrt(2) * 28 * 2 * 7  # along a diagonal, seven pixels to either side
    assert 0.7 * widest < inside.sum(axis=(1, 2, 3)).max() <= widest


def test_a_filter_keeps_the_ink_and_smears_it() -> None:
    dot = np.zeros((200, 28, 28, 1), "float32")
    dot[:, 14, 14] = 1
    smeared = after(FILTER, dot)
    assert np.allclose(smeared.sum(axis=(1, 2, 3)), 1, atol=1e-5)
    assert smeared[:, 12:17, 12:17].sum() == pytest.approx(200, rel=1e-5)
    assert len(np.unique(smeared.max(axis=(1, 2, 3)).round(4))) > 150


# For a white bar: mean and standard deviation over 100,000 images (50,000 for a single step) of the
# statistics in `shown`, from a version in which each step sampled separately, with the backend's
# normal distribution.
AFFINE = {
    "brightness": (80.574 / 784, 15.891 / 784),
    "roughness": (0.05321, 0.00575),
    "row": (13.509, 1.692),
    "column": (13.492, 1.708),
    "height": (5.712, 0.624),
    "width": (1.600, 0.447),
    "slant": (-0.056, 6.373),
}
DEGRADED = {
    "brightness": (0.29456, 0.16265),
    "deviation": (0.20878, 0.07848),
    "darkest": (0.10090, 0.14830),
    "brightest": (0.89839, 0.15699),
    "roughness": (0.07991, 0.05792),
}
STEPS = {
    BAR: {"brightness": (0.1217, 0.0240), "roughness": (0.0600, 0.0090)},
    FILTER: {"deviation": (0.2293, 0.0202), "roughness": (0.0467, 0.0038)},
    NOISE: {"deviation": (0.2856, 0.0067), "roughness": (0.1270, 0.0428)},
    PAPER: {"darkest": (0.2503, 0.1442), "deviation": (0.1416, 0.0567)},
    STAIN: {"brightness": (0.2378, 0.0930), "darkest": (0.0189, 0.0294)},
}


def shown(images: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of each image: of its brightness, and of the position of its ink."""
    images = images[..., 0].astype("float64")
    ink = images / images.sum(axis=(1, 2), keepdims=True)
    rows, columns = np.indices((28, 28))
    row, column = (ink * rows).sum(axis=(1, 2)), (ink * columns).sum(axis=(1, 2))
    down, right = rows - row[:, None, None], columns - column[:, None, None]
    return {
        "brightness": images.mean(axis=(1, 2)),
        "deviation": images.std(axis=(1, 2)),
        "darkest": images.min(axis=(1, 2)),
        "brightest": images.max(axis=(1, 2)),
        "roughness": np.abs(np.diff(images, axis=2)).mean(axis=(1, 2)),
        "row": row,
        "column": column,
        "height": np.sqrt((ink * down**2).sum(axis=(1, 2))),
        "width": np.sqrt((ink * right**2).sum(axis=(1, 2))),
        "slant": (ink * down * right).sum(axis=(1, 2)),
    }


@pytest.mark.parametrize(
    ("layer", "moments"),
    [
        (RandomAffine(15, 0.1, 0.15, 0.2, 0.7, seed=2), AFFINE),
        (WithoutBand(1.0, seed=2), DEGRADED),
        *((OneStep(step), moments) for step, moments in STEPS.items()),
    ],
    ids=["affine", "degradation", "bar", "filter", "noise", "paper", "stain"],
)
def test_sampling_at_once_has_the_distribution_of_sampling_per_step(
    layer: keras.layers.Layer, moments: dict[str, tuple[float, float]]
) -> None:
    bar = np.zeros((4000, 28, 28, 1), "float32")
    bar[:, 4:24, 12:16] = 1
    found = shown(ops.convert_to_numpy(layer(bar, training=True)))
    for name, (mean, deviation) in moments.items():
        received = found[name]
        # 5 standard errors; that of a deviation is less than 3 % for these distributions.
        error = 5 * deviation / math.sqrt(len(received))
        assert received.mean() == pytest.approx(mean, abs=error), name
        assert received.std() == pytest.approx(deviation, rel=0.1), name


@pytest.mark.parametrize(
    "layer",
    [RandomAffine(9, 0.1, 0.1, 0.1, 0.5), RandomPen(0.5), RandomDegradation(0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_samples_once_per_call(layer: keras.layers.Layer, images: np.ndarray) -> None:
    """The second number of the generator's state counts the calls."""
    before = np.array(ops.convert_to_numpy(layer.seed_generator.state.value))
    layer(images, training=True)
    after = ops.convert_to_numpy(layer.seed_generator.state.value)
    assert (after - before).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kernel_size", "padding"),
    [*((size, "same") for size in (2, 3, 5, (3, 7), 7)), ((7, 9), "valid"), (3, "valid")],
)
def test_the_depthwise_convolution_equals_that_of_keras(
    kernel_size: int | tuple[int, int], padding: str
) -> None:
    """The same weights give the same outputs and gradients in each implementation."""
    layer = DepthwiseConv2D(kernel_size, padding=padding, bias_initializer="lecun_normal")
    x = np.random.default_rng(0).normal(size=(3, 7, 9, 5)).astype("float32")
    layer.build(x.shape)
    stock = keras.layers.DepthwiseConv2D.from_config(layer.get_config())
    stock.build(x.shape)
    stock.set_weights(layer.get_weights())
    assert np.allclose(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(stock(x)), atol=1e-5)
    if keras.backend.backend() == "jax":  # has another implementation
        import jax

        def loss(of: keras.layers.Layer, weights: list[Any]) -> Any:
            outputs, _ = of.stateless_call(weights, [], x)
            return ops.sum(ops.sin(outputs))

        weights = [variable.value for variable in layer.trainable_variables]
        for ours, theirs in zip(
            jax.grad(lambda w: loss(layer, w))(weights),
            jax.grad(lambda w: loss(stock, w))(weights),
            strict=True,
        ):
            assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        RandomAffine(10, 0.1, 0.2, 0.3, 0.4, seed=5),
        RandomPen(0.3, seed=5),
        RandomDegradation(0.3, seed=5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_can_be_restored_from_its_config(layer: keras.layers.Layer) -> None:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
