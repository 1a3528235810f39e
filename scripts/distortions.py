"""Distortions of digits, for evaluation only: no network is trained on them.

Each distortion takes `(N, H, W)` float32 images in [0, 1], light on dark, and a
NumPy generator, and returns images of the same shape. Most kinds are those of
MNIST-C (Mu and Gilmer, arXiv 1906.02337); blur, contrast and occlusion are added.
The strengths differ, so accuracies are not comparable with those on MNIST-C.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

Distortion = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def shot_noise(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Poisson noise of dim light, with a mean of eight photons on white and one on black."""
    return random.poisson(8 * (0.875 * images + 0.125)) / 8


def impulse_noise(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Salt and pepper on one in seven pixels."""
    hit = random.random(images.shape) < 1 / 7
    return np.where(hit, random.integers(0, 2, images.shape), images)


def blur(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur of 1.5 pixels, renormalized."""
    blurred = ndimage.gaussian_filter(images, (0, 1.5, 1.5))
    return blurred / blurred.max(axis=(1, 2), keepdims=True).clip(0.2)


def motion_blur(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A camera motion of seven pixels in a random direction."""
    angles = random.uniform(0, np.pi, len(images))
    steps = np.linspace(-3.5, 3.5, 9)
    direction = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return np.mean([_resampled(images, np.eye(2), step * direction) for step in steps], axis=0)


def fog(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Fractal noise over a paler digit."""
    return 0.55 * images + 0.6 * _clouds(images.shape, random)


def brightness(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Overexposure by half of the range."""
    return images + 0.5


def contrast(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Low contrast, as of a hard pencil on grey paper."""
    return 0.35 + 0.3 * images


def dotted_line(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Dots on a straight line across the digit."""
    return _drawn(images, random, _draw_dots)


def zigzag(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A thin zigzag across the digit."""
    return _drawn(images, random, _draw_zigzag)


def stripe(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A band of four inverted rows or columns."""
    distorted = images.copy()
    for image in distorted:
        start = random.integers(6, 18)
        band = image[start : start + 4] if random.random() < 0.5 else image[:, start : start + 4]
        band[:] = 1 - band
    return distorted


def occlusion(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A black rectangle of ten rows and five columns."""
    distorted = images.copy()
    for image in distorted:
        top, left = random.integers(4, 15, 2)
        image[top : top + 10, left : left + 5] = 0
    return distorted


def spatter(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Drops of ink."""
    noise = ndimage.gaussian_filter(random.normal(size=images.shape), (0, 1.2, 1.2))
    drops = noise > np.quantile(noise, 0.93, axis=(1, 2), keepdims=True)
    return np.maximum(images, 0.8 * drops)


def shear(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A shear of 0.4 columns per row in either direction."""
    matrices = np.tile(np.eye(2), (len(images), 1, 1))
    matrices[:, 1, 0] = 0.4 * random.choice([-1, 1], len(images))
    return _resampled(images, matrices)


def shift(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A shift of four pixels along both axes."""
    return _resampled(images, np.eye(2), 4.0 * random.choice([-1, 1], (len(images), 2)))


def scale(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A reduction to two thirds of the size."""
    return _resampled(images, 1.5 * np.eye(2))


def rotation(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A rotation by 30 degrees in either direction."""
    angle = np.radians(30) * random.choice([-1, 1], len(images))
    cosine, sine = np.cos(angle), np.sin(angle)
    return _resampled(images, np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1))


DISTORTIONS: tuple[Distortion, ...] = (
    shot_noise,
    impulse_noise,
    blur,
    motion_blur,
    fog,
    brightness,
    contrast,
    dotted_line,
    zigzag,
    stripe,
    occlusion,
    spatter,
    shear,
    shift,
    scale,
    rotation,
)


def distort(images: np.ndarray, distortion: Distortion, seed: int = 0) -> np.ndarray:
    """Applies a distortion.

    Args:
        images: `(N, H, W, 1)` uint8.
        distortion: One of `DISTORTIONS`.
        seed: The same seed gives the same images.

    Returns:
        `(N, H, W, 1)` uint8.
    """
    distorted = distortion(images[..., 0].astype("float32") / 255, np.random.default_rng(seed))
    return np.rint(255 * distorted.clip(0, 1)).astype(np.uint8)[..., None]


def _resampled(
    images: np.ndarray, matrices: np.ndarray, shifts: np.ndarray | float = 0.0
) -> np.ndarray:
    """Resamples images: the pixel at `p` from the centre is taken from `matrix @ p - shift`.

    Args:
        images: `(N, H, W)`.
        matrices: `(N, 2, 2)`, or one for all images.
        shifts: `(N, 2)`, or one for all images; pixels downwards and to the right.
    """
    count, *size = images.shape
    centre = (np.array(size) - 1) / 2
    matrices = np.broadcast_to(matrices, (count, 2, 2))
    offsets = centre - matrices @ centre - shifts
    resampled = map(ndimage.affine_transform, images, matrices, offsets)
    return np.stack(list(resampled))


def _clouds(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Fractal noise, scaled to the range 0 to 1 in each image."""
    fy, fx = np.meshgrid(np.fft.fftfreq(shape[1]), np.fft.fftfreq(shape[2]), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / shape[1]) ** 1.5
    spectrum = np.fft.fft2(random.normal(size=shape)) * amplitude
    clouds = np.fft.ifft2(spectrum).real
    low, high = clouds.min(axis=(1, 2), keepdims=True), clouds.max(axis=(1, 2), keepdims=True)
    return (clouds - low) / (high - low)


def _drawn(
    images: np.ndarray,
    random: np.random.Generator,
    draw: Callable[[ImageDraw.ImageDraw, np.ndarray, np.ndarray, np.random.Generator], None],
) -> np.ndarray:
    """Calls `draw` on each image, with a random point at the left and one at the right."""
    distorted = []
    for image in images:
        height, width = image.shape
        start = np.array([random.uniform(0, width / 4), random.uniform(0, height)])
        end = np.array([random.uniform(3 * width / 4, width), random.uniform(0, height)])
        over = Image.new("L", (width, height))
        draw(ImageDraw.Draw(over), start, end, random)
        distorted.append(np.maximum(image, np.asarray(over) / 255))
    return np.stack(distorted)


def _draw_dots(
    draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, random: np.random.Generator
) -> None:
    for x, y in np.linspace(start, end, 9):
        draw.rectangle((x, y, x + 1, y + 1), fill=255)


def _draw_zigzag(
    draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, random: np.random.Generator
) -> None:
    points = np.linspace(start, end, 9)
    points[1:-1:2, 1] += 2.5
    points[2:-1:2, 1] -= 2.5
    draw.line([tuple(point) for point in points], fill=255, width=1)
