"""Padding of pictures, the same for training pages and for reading."""

import numpy as np

Margins = tuple[int, int, int, int]  # pixels above, below, left and right


def padded(image: np.ndarray, margins: Margins, repeated: bool) -> np.ndarray:
    """Pads a picture.

    Args:
        image: `(H, W)` uint8.
        margins: Pixels above, below, left and right.
        repeated: Whether to repeat the pixels of the edge, so that a cell's
            border becomes a line to the end of the padding; otherwise the
            padding is the edge's median, like plain paper.
    """
    import cv2

    if repeated:
        return cv2.copyMakeBorder(image, *margins, cv2.BORDER_REPLICATE)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=float(np.median(edge)))
