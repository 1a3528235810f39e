"""A grey picture to its ink, and the ink of a digit to MNIST's form."""

from typing import TYPE_CHECKING

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.images import SIDE, described, name_of, read_grey

if TYPE_CHECKING:
    from keras_digitnet.images import Picture

# MNIST's digits fill 20x20 and have their centre of mass at pixel 14 of 28 (LeCun et al., 1998).
BOX = 20
CENTRE = 14
# The middle half of MNIST's strokes, in pixels, as `stroke_width` measures them.
STROKE_WIDTHS = (2.4, 3.2)
# Width to height of MNIST's median digit, for one that was stretched to its box.
USUAL_ASPECT = 0.8

# Strokes are corrected on a digit drawn so many times larger.
_MAGNIFIED = 5
# More pixels a side tell no more of one digit.
_LARGEST = 256
# More tell no more of light and paper.
_GLANCE = 512
# Uneven paper is darker than its surroundings by so much; the faintest pencil by twice as much.
_FAINTEST = 0.06


def normalize_digit(picture: "Picture") -> np.ndarray:
    """One digit in MNIST's form: light on black, fit to 20x20, centred in 28x28 by its mass.

    A 28x28 picture, light on dark, whose mass lies within a pixel of the
    centre has that form already and comes back unchanged.

    Training brings the pictures of a data set into this form too, so that a
    network sees in `predict` what it was trained on.

    Args:
        picture: As for `read_grey`: a file's path or content, an open file, a
            Pillow image, or an array; dark on light or light on dark.

    Returns:
        `(28, 28)` uint8.

    Raises:
        DigitNetError: It is no picture, or there is no ink in it.
    """
    grey = read_grey(picture)
    if _is_normalized(grey):
        return grey
    ink = _digit_alone(darkness(shrunk(grey, _LARGEST)))
    if not ink.any():
        raise DigitNetError(
            f"{name_of(picture)}: no ink found: expected a digit that stands out from its paper; "
            f"received: {described(grey)} without one."
        )
    return draw_digit(ink, narrowed=_usual_narrowing(ink, grey))


def _usual_narrowing(ink: np.ndarray, grey: np.ndarray) -> float:
    """What undoes the stretching of a digit to a square that it fills from edge to edge."""
    filled = ink.shape == grey.shape and abs(ink.shape[0] - ink.shape[1]) <= 0.1 * ink.shape[0]
    return USUAL_ASPECT if filled else 1.0


def _is_normalized(grey: np.ndarray) -> bool:
    import cv2

    if grey.shape != (SIDE, SIDE) or not _first_look(grey)[1]:
        return False
    mass = cv2.subtract(grey, float(np.median(grey)))  # the ground, if not black, has no weight
    if not mass.any():
        return False
    # The middle of the picture is 13.5; MNIST's programs count it as 14.
    return all(12.5 <= position <= 15 for position in _centre_of_mass(mass))


def _centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    rows, columns = image.sum(axis=1, dtype=float), image.sum(axis=0, dtype=float)
    mass = rows.sum()
    return (
        float(rows @ np.arange(len(rows)) / mass),
        float(columns @ np.arange(len(columns)) / mass),
    )


# Paper and ink


def shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    """The picture with no side longer than `side`."""
    import cv2

    height, width = grey.shape
    factor = side / max(height, width)
    if factor >= 1:
        return grey
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def darkness(grey: np.ndarray, beyond: bool = False) -> np.ndarray:
    """How much darker than the paper around it each pixel is, or lighter on dark paper.

    Shadows go with the paper: it is what stays when every stroke is painted
    over with its surroundings (a morphological closing).

    Args:
        grey: `(H, W)` uint8.
        beyond: Whether what lies along the picture's edges goes on beyond them;
            then a shadow's corner is no stroke.

    Returns:
        `(H, W)` float32, from 0 to 1, the fraction of the paper's light that is
        missing.
    """
    import cv2

    small = shrunk(grey, _GLANCE)
    strokes, light_on_dark = _first_look(small)
    if light_on_dark:
        grey, small = 255 - grey, 255 - small
    # Wider than any stroke, else strokes count as paper; no wider, else shadows count as ink.
    side = max(small.shape)
    window = int(np.clip(3 * stroke_width(strokes), side / 8, side / 2)) | 1
    margin = window // 2 if beyond else 0
    paper = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    paper = cv2.morphologyEx(paper, cv2.MORPH_CLOSE, np.ones((window, window), np.uint8))
    paper = cv2.medianBlur(paper, min(window // 4 | 1, 255))
    paper = paper[margin : margin + small.shape[0], margin : margin + small.shape[1]]
    paper = cv2.resize(paper, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # Camera noise; of a line, its height tells how fine the strokes are that it may blur.
    blur = float(np.clip(min(side, 1.7 * small.shape[0]) / 256, 0.1, 1))
    smooth = cv2.GaussianBlur(grey, (0, 0), blur)
    missing = cv2.subtract(paper, smooth).astype(np.float32)
    return missing / np.maximum(paper, 32)  # noise in black shadow is no ink


def is_light_on_dark(grey: np.ndarray) -> bool:
    """Whether `normalize_digit` takes what is light in a picture for its ink.

    Args:
        grey: `(H, W)` uint8.
    """
    return _first_look(shrunk(grey, _LARGEST))[1]


def _first_look(grey: np.ndarray) -> tuple[np.ndarray, bool]:
    """Roughly the ink's mask, and whether it is light on dark.

    What fills the corners, or else most of the picture, is the paper, unless
    fine strokes stand out from it the other way: then that is a shadow.
    """
    import cv2

    side = max(grey.shape) // 2 | 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REFLECT)
    # The median keeps the edge of a shadow, which the mean takes for ink; frames need the mean.
    median = cv2.medianBlur(grey, int(np.clip(min(grey.shape) | 1, 3, 255)))
    surroundings = cv2.addWeighted(mean, 0.5, median, 0.5, 0)
    contrast = cv2.normalize(
        cv2.subtract(grey, surroundings, dtype=cv2.CV_32F), None, 0, 255, cv2.NORM_MINMAX
    ).astype(np.uint8)
    _, light = cv2.threshold(contrast, 0, 1, cv2.THRESH_OTSU)
    corner = max(1, min(grey.shape) // 8)
    ends = slice(None, corner), slice(-corner, None)
    in_corners = np.mean([light[rows, columns].mean() for rows in ends for columns in ends])
    # From -1 to 1; fine strokes all of one kind weigh as much at a fortieth of the spread.
    dark_paper = np.clip(1.5 - in_corners - 2 * light.mean(), -1, 1)
    light_on_dark = bool(dark_paper + 40 * _light_strokes(grey) > 0)
    return (light if light_on_dark else 1 - light), light_on_dark


def _light_strokes(grey: np.ndarray) -> float:
    """How much more there is of fine light strokes than of dark ones, in the picture's spread.

    Light ones are gone after a morphological opening, dark ones after a
    closing; the edge of a shadow stays in both.
    """
    import cv2

    side = min(grey.shape)
    smooth = cv2.GaussianBlur(grey, (0, 0), max(0.8, side / 80))
    fine = np.ones((max(3, int(0.08 * side)) | 1,) * 2, np.uint8)
    light = cv2.subtract(smooth, cv2.morphologyEx(smooth, cv2.MORPH_OPEN, fine)).mean()
    dark = cv2.subtract(cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, fine), smooth).mean()
    return float(light - dark) / max(float(grey.std()), 1.0)


def stroke_width(mask: np.ndarray) -> float:
    """The mean width of the strokes of a mask, in pixels; exact for a long bar."""
    import cv2

    if not mask.any():
        return 0.0
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # The distance to paper rises to half the width in the middle: a quarter in the mean.
    return 4 * float(cv2.distanceTransform(framed, cv2.DIST_L2, 5)[framed > 0].mean())


def outlined(dark: np.ndarray) -> np.ndarray:
    """Darkness as ink: `(H, W)` float32, 0 on paper, 0.5 on the outline of a stroke, 1 within.

    All 0 where nothing stands out from the paper's noise.
    """
    import cv2

    levels = (255 * dark).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    # At least a quarter of the picture is paper; its spread tells the noise.
    counts = np.cumsum(np.bincount(levels.ravel(), minlength=256))
    low, quarter = np.searchsorted(counts, (0.05 * counts[-1], 0.25 * counts[-1]))
    outline = max(otsu, quarter + 4 * (quarter - low))
    inside = levels[levels > outline]
    within = float(np.median(inside)) if len(inside) else 0.0
    if within < 255 * _FAINTEST:
        return np.zeros_like(dark)
    return np.clip(0.5 + 0.5 * (255 * dark - outline) / (within - outline), 0, 1)


# One digit among what else is in the picture


def _digit_alone(dark: np.ndarray) -> np.ndarray:
    """The ink of the digit, cropped; nothing of rulings, cell borders and specks."""
    import cv2

    ink = outlined(dark)
    digit = _main_strokes((ink > 0.5).astype(np.uint8))
    lines = _lines_around((ink > 0.5).astype(np.uint8))
    if lines.any():
        # The digit may be much fainter than the borders of its cell.
        ink_between = outlined(np.where(lines, 0, dark))
        between = _main_strokes((ink_between > 0.5).astype(np.uint8))
        if _extent(between) > 0.2 * max(dark.shape):
            gap = max(dark.shape) // 20 | 1
            joined = cv2.morphologyEx(between, cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8))
            crossings = joined & lines & (ink > 0.5)
            ink, digit = np.maximum(ink_between, crossings * ink), between | crossings
    if _extent(digit) < 0.1 * max(dark.shape):  # a speck
        return np.zeros((1, 1), np.float32)
    near = cv2.dilate(digit, np.ones((3, 3), np.uint8))  # the soft rim belongs to a stroke
    return cropped(np.where(near, ink, 0))


def _lines_around(mask: np.ndarray) -> np.ndarray:
    """Rulings and borders: straight lines through the whole picture with a digit off its edges.

    In a tight crop, where the digit's own bars run from edge to edge, there
    are none.
    """
    import cv2

    rulings = find_rulings(mask)
    if not rulings.any():
        return rulings
    count, labels = cv2.connectedComponents(mask)
    areas = np.bincount(labels.ravel())
    ruled = np.bincount(labels.ravel(), rulings.ravel(), count) > 0.5 * areas
    for lines, edges in ((rulings, 0), (rulings & ruled[labels], 1)):
        if _touched_edges(_main_strokes(mask & ~lines & 1)) <= edges:
            return lines
    return np.zeros_like(mask)


def find_rulings(mask: np.ndarray, shortest: tuple[float, float] | None = None) -> np.ndarray:
    """Where straight lines run, with their soft rims, but not the strokes that cross them.

    Args:
        mask: `(H, W)` uint8, 1 where there is ink.
        shortest: How many pixels of a row and of a column make a line; else
            nine tenths of the picture's width and height.
    """
    across, down = shortest or (0.9 * mask.shape[1], 0.9 * mask.shape[0])
    rows, strokes = _horizontal_rulings(mask, across)
    columns, more_strokes = (
        np.ascontiguousarray(part.T) for part in _horizontal_rulings(mask.T, down)
    )
    crossing = _inner((strokes & ~columns) | (more_strokes & ~rows))
    return (rows | columns) & ~crossing


def _horizontal_rulings(mask: np.ndarray, shortest: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines are, and where the mask is much higher than they are thick."""
    import cv2

    nothing = np.zeros_like(mask)
    if min(mask.shape) < 8 or not 1 < shortest <= mask.shape[1]:
        return nothing, nothing
    # Fattened, a line that is a little slanted or broken still holds long horizontal runs.
    fat = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    runs = cv2.morphologyEx(
        fat, cv2.MORPH_OPEN, np.ones((1, max(1, int(0.28 * shortest))), np.uint8)
    )
    if not runs.any():  # as in most pictures; what follows takes twice as long again
        return nothing, nothing
    count, labels, stats, _ = cv2.connectedComponentsWithStats(runs)
    lengths = stats[:, cv2.CC_STAT_WIDTH]
    thickness = np.bincount(labels[mask > 0], minlength=count) / np.maximum(lengths, 1)
    lines = (lengths >= shortest) & (thickness <= shortest / 9)  # no longer stroke of a digit
    lines[0] = False
    if not lines.any():
        return nothing, nothing
    usual = float(np.median(thickness[lines]))
    rim = np.ones((int(usual) | 1,) * 2, np.uint8)
    higher = np.ones((int(2 * usual) + 2, 1), np.uint8)
    return (
        cv2.dilate(lines[labels].astype(np.uint8), rim),
        cv2.morphologyEx(mask, cv2.MORPH_OPEN, higher),
    )


def _inner(mask: np.ndarray) -> np.ndarray:
    """The mask without a tenth at each edge, where the border of a photographed cell lies."""
    height, width = mask.shape
    y, x = max(1, height // 10), max(1, width // 10)
    inner = np.zeros_like(mask)
    inner[y : height - y, x : width - x] = mask[y : height - y, x : width - x]
    return inner


def _main_strokes(mask: np.ndarray) -> np.ndarray:
    """The largest component with what lies near it and is no speck, nor a line along an edge."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count <= 2:
        return mask
    height, width = mask.shape
    left, top, widths, heights, areas = stats.T
    in_margin = np.bincount(_inner(labels).ravel(), minlength=count) < 0.2 * areas
    border = in_margin & ((widths > 0.7 * width) | (heights > 0.7 * height))
    border[0] = True
    if border.all():
        return np.zeros_like(mask)
    main = int(np.where(border, 0, areas).argmax())
    gap_x = np.maximum(left - (left[main] + widths[main]), left[main] - (left + widths))
    gap_y = np.maximum(top - (top[main] + heights[main]), top[main] - (top + heights))
    near = np.maximum(gap_x, gap_y) < 0.2 * max(widths[main], heights[main])
    kept = near & ~border & (areas >= 0.02 * areas[main])
    return kept[labels].astype(np.uint8)


def _extent(mask: np.ndarray) -> int:
    """The longer side of the box around a mask."""
    import cv2

    return max(cv2.boundingRect(mask)[2:])


def _touched_edges(mask: np.ndarray) -> int:
    return sum(bool(edge.any()) for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def cropped(ink: np.ndarray) -> np.ndarray:
    """The ink without the paper around it."""
    import cv2

    left, top, width, height = cv2.boundingRect((ink > 0).astype(np.uint8))
    return ink[top : top + height, left : left + width]


# MNIST's form


def draw_digit(ink: np.ndarray, narrowed: float = 1.0) -> np.ndarray:
    """The digit drawn as MNIST has it.

    Args:
        ink: `(H, W)` float32 as `outlined` gives it, not all 0, cropped.
        narrowed: What its width is multiplied by.

    Returns:
        `(28, 28)` uint8.
    """
    import cv2

    strokes = cropped(_with_usual_strokes(_magnified(ink, narrowed)))
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


def _magnified(ink: np.ndarray, narrowed: float) -> np.ndarray:
    """The digit's ink at `_MAGNIFIED` times MNIST's size, with room for wider strokes."""
    import cv2

    height, width = ink.shape
    factor = _MAGNIFIED * BOX / max(height, width * narrowed)
    large = cv2.copyMakeBorder(ink, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    size = (round((width + 2) * factor * narrowed), round((height + 2) * factor))
    size = (max(1, size[0]), max(1, size[1]))
    if factor < 1:
        large = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
    else:
        large = cv2.resize(large, size, interpolation=cv2.INTER_CUBIC)
        large = cv2.GaussianBlur(large, (0, 0), 0.4 * factor)  # stairs are no part of a stroke
    margin = _MAGNIFIED * 2
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)


def _with_usual_strokes(ink: np.ndarray) -> np.ndarray:
    """The ink with strokes nearly as wide as MNIST's: thin ones widened, bold ones thinned.

    Strokes that are not widened keep their tones: a loop that is nearly filled
    is seen in them alone.
    """
    import cv2

    mask = (ink > min(0.5, 0.5 * float(ink.max()))).astype(np.uint8)
    width = stroke_width(mask)
    thinnest, boldest = (_MAGNIFIED * limit for limit in STROKE_WIDTHS)
    if width < thinnest:
        from_ink = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
        return (from_ink <= (thinnest - width) / 2).astype(np.float32)
    to_paper = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    # Half of what is too much goes: an 8 with filled loops, thinned all the way, is a 1. And where
    # strokes differ in width the thin ones must not vanish altogether.
    shrinkage = min(max(0.0, width - boldest) / 4, 0.6 * float(to_paper.max()))
    return np.where(to_paper > shrinkage, np.clip(ink, 0, 1), 0).astype(np.float32)
