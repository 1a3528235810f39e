"""Normalizes a digit in a picture to MNIST's form."""

import numpy as np

from keras_digitnet.config import SIDE

# MNIST's digits fill 20x20 and have their centre of mass at pixel 14 of 28 (LeCun et al., 1998).
BOX = 20
CENTRE = 14
# Quartiles of MNIST's stroke widths, in pixels, as `stroke_width` measures them.
STROKE_WIDTHS = (2.4, 3.2)

# The lowest contrast of a picture in MNIST's form; classifiers misread fainter ones.
_CONTRAST = 64
# Strokes are corrected at this multiple of MNIST's resolution.
_MAGNIFIED = 5
# Margins around a character's box, in heights of the box: to see the paper, and for ink that the
# box cuts off.
_SURROUNDINGS = 0.25
_MARGIN = 0.06
# In heights of the box: blur against noise; and two upper bounds of stroke width, a narrow one
# that keeps loops open, to tell light ink from dark, and a wide one to extract the ink.
_NOISE = 0.02
_STROKES = (0.2, 0.6)

Box = tuple[float, float, float, float]


def is_normalized(grey: np.ndarray) -> bool:
    """Whether a grey picture has MNIST's form already.

    That is 28x28 pixels, light on dark, of sufficient contrast, with the centre of
    mass between 12.5 and 15 pixels on both axes: MNIST's centring rounds 13.5 to 14.

    Args:
        grey: `(H, W)` uint8.
    """
    import cv2

    if grey.shape != (SIDE, SIDE):
        return False
    mass = cv2.subtract(grey, _background(grey))  # a background that is not black has no weight
    if mass.max() < _CONTRAST or not is_light_on_dark(grey):
        return False
    return all(12.5 <= position <= 15 for position in _centre_of_mass(mass))


def may_show_several(image: np.ndarray) -> bool:
    """Whether an image in MNIST's form has two strokes, apart, of at least half its ink's height.

    Two digits side by side have, in 94 to 100 % of such images, and 0.06 % of
    MNIST's digits.

    Args:
        image: `(28, 28)` uint8.
    """
    import cv2

    ink = (cv2.subtract(image, _background(image)) > _CONTRAST).astype(np.uint8)
    heights = cv2.connectedComponentsWithStats(ink)[2][1:, cv2.CC_STAT_HEIGHT]
    return bool((2 * heights >= cropped(ink).shape[0]).sum() > 1)


def is_light_on_dark(grey: np.ndarray) -> bool:
    """Whether the edge of a `(H, W)` picture is darker than the mean of its pixels."""
    return _background(grey) <= grey.mean()


def _background(grey: np.ndarray) -> float:
    edge = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    return float(np.median(edge))


def digit_in(grey: np.ndarray, box: Box) -> np.ndarray:
    """Cuts a character out of a picture and normalizes it to MNIST's form.

    Args:
        grey: `(H, W)` uint8.
        box: Left, top, right and bottom, in pixels.

    Returns:
        `(28, 28)` uint8; black if the box holds no ink.
    """
    ink = cropped(_ink_in(grey, box))
    return draw_digit(ink) if ink.size else np.zeros((SIDE, SIDE), np.uint8)


def _ink_in(grey: np.ndarray, box: Box) -> np.ndarray:
    """The ink in a box: `(h, w)` float32, 0 on paper, 0.5 on the outline of a stroke, 1 within.

    A black-hat or top-hat transform, whichever responds more strongly, separates
    dark or light strokes from paper and shadows; Otsu's threshold separates them
    from noise.
    """
    import cv2

    tall = max(box[3] - box[1], 1.0)
    left, top, right, bottom = _slices(grey.shape, box, _SURROUNDINGS * tall)
    crop = cv2.GaussianBlur(grey[top:bottom, left:right], (0, 0), max(_NOISE * tall, 0.1))
    inner = _slices(grey.shape, box, _MARGIN * tall)
    rows, columns = slice(inner[1] - top, inner[3] - top), slice(inner[0] - left, inner[2] - left)
    narrow, wide = (np.ones((max(3, round(s * tall)) | 1,) * 2, np.uint8) for s in _STROKES)
    dark_or_light = (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT)
    amount = [cv2.morphologyEx(crop, how, narrow)[rows, columns].mean() for how in dark_or_light]
    how = dark_or_light[int(np.argmax(amount))]
    contrast = cv2.morphologyEx(crop, how, wide)
    outline, mask = cv2.threshold(contrast, 0, 1, cv2.THRESH_OTSU)
    if not mask.any():
        return np.zeros(crop.shape, np.float32)
    within = max(float(np.median(contrast[mask > 0])), outline + 1)
    ink = 0.5 + 0.5 * (contrast.astype(np.float32) - outline) / (within - outline)
    own = _mostly_inside(mask, rows, columns)
    # A stroke's edge is soft; beyond one pixel, differences from the paper are noise.
    return np.clip(ink * cv2.dilate(own, np.ones((3, 3), np.uint8)), 0, 1)


def _mostly_inside(mask: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The connected components of which more than half lies in the box, in full."""
    import cv2

    count, labels = cv2.connectedComponents(mask)
    all_of_it = np.bincount(labels.ravel(), minlength=count)
    inside = np.bincount(labels[rows, columns].ravel(), minlength=count)
    kept = 2 * inside > all_of_it
    kept[0] = False
    if not kept.any():  # a stroke that crosses the box, as in touching digits
        clipped = np.zeros_like(mask)
        clipped[rows, columns] = mask[rows, columns]
        return clipped
    return kept[labels].astype(np.uint8)


def _slices(shape: tuple[int, ...], box: Box, margin: float) -> tuple[int, int, int, int]:
    """The box with a margin, clipped to the picture, in whole pixels, at least one each way."""
    left, right = (
        int(np.clip(side, 0, shape[1])) for side in (box[0] - margin, box[2] + margin + 1)
    )
    top, bottom = (
        int(np.clip(side, 0, shape[0])) for side in (box[1] - margin, box[3] + margin + 1)
    )
    left, top = min(left, shape[1] - 1), min(top, shape[0] - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    rows, columns = image.sum(axis=1, dtype=float), image.sum(axis=0, dtype=float)
    mass = rows.sum()
    return (
        float(rows @ np.arange(len(rows)) / mass),
        float(columns @ np.arange(len(columns)) / mass),
    )


def stroke_width(mask: np.ndarray) -> float:
    """The mean width of the strokes of a `(H, W)` uint8 mask, in pixels; exact for a long bar."""
    import cv2

    if not mask.any():
        return 0.0
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # The distance to paper rises to half the width at the centre line: a quarter on average.
    return 4 * float(cv2.distanceTransform(framed, cv2.DIST_L2, 5)[framed > 0].mean())


def cropped(ink: np.ndarray) -> np.ndarray:
    """Crops `(H, W)` float ink to its bounding box; empty if there is no ink."""
    import cv2

    left, top, width, height = cv2.boundingRect((ink > 0).astype(np.uint8))
    return ink[top : top + height, left : left + width]


def draw_digit(ink: np.ndarray) -> np.ndarray:
    """Draws ink in MNIST's form: fit to 20x20, with MNIST's stroke width, centred by mass.

    Args:
        ink: `(H, W)` float32, 0 on paper, 0.5 on the outline of a stroke and 1
            within; cropped, and not all 0.

    Returns:
        `(28, 28)` uint8.
    """
    import cv2

    strokes = cropped(_with_mnist_strokes(_magnified(ink)))
    height, width = strokes.shape
    factor = BOX / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    digit = np.rint(cv2.resize(255 * strokes, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)
    row, column = _centre_of_mass(digit)
    top = int(np.clip(round(CENTRE - row), 0, SIDE - size[1]))
    left = int(np.clip(round(CENTRE - column), 0, SIDE - size[0]))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + size[1], left : left + size[0]] = digit
    return image


def _magnified(ink: np.ndarray) -> np.ndarray:
    """The digit's ink at `_MAGNIFIED` times MNIST's size, padded so that strokes can widen."""
    import cv2

    height, width = ink.shape
    factor = _MAGNIFIED * BOX / max(height, width)
    large = cv2.copyMakeBorder(ink, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    size = (round((width + 2) * factor), round((height + 2) * factor))
    size = (max(1, size[0]), max(1, size[1]))
    if factor < 1:
        large = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
    else:
        large = cv2.resize(large, size, interpolation=cv2.INTER_CUBIC)
        large = cv2.GaussianBlur(large, (0, 0), 0.4 * factor)  # smooths the pixel staircase
    margin = _MAGNIFIED * 2
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)


def _with_mnist_strokes(ink: np.ndarray) -> np.ndarray:
    """Widens thin strokes and thins bold ones, to nearly the width of MNIST's.

    Strokes that are not widened keep their grey values, which alone show a loop
    that is almost filled.
    """
    import cv2

    mask = (ink > min(0.5, 0.5 * float(ink.max()))).astype(np.uint8)
    width = stroke_width(mask)
    thinnest, boldest = (_MAGNIFIED * limit for limit in STROKE_WIDTHS)
    if width < thinnest:
        from_ink = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
        return (from_ink <= (thinnest - width) / 2).astype(np.float32)
    to_paper = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    # Remove only half of the excess: fully thinned, an 8 with filled loops becomes a 1. The second
    # bound keeps thin strokes from vanishing beside bold ones.
    shrinkage = min(max(0.0, width - boldest) / 4, 0.6 * float(to_paper.max()))
    return np.where(to_paper > shrinkage, np.clip(ink, 0, 1), 0).astype(np.float32)
