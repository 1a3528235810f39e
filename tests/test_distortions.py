"""The distortions that robustness is measured with."""

import importlib
import sys

import numpy as np
import pytest
from conftest import ROOT

from keras_digitnet.data import Dataset

sys.path.insert(0, str(ROOT / "scripts"))
distortions = importlib.import_module("distortions")


@pytest.mark.parametrize("distortion", distortions.DISTORTIONS, ids=lambda each: each.__name__)
def test_a_distortion_changes_every_image_and_is_reproducible(
    digits: Dataset, distortion: object
) -> None:
    images = digits.test.images[:20]
    before = images.copy()
    distorted = distortions.distort(images, distortion)
    assert (distorted.shape, distorted.dtype) == (images.shape, np.uint8)
    assert np.array_equal(images, before)
    assert (distorted != images).any(axis=(1, 2, 3)).all()
    # Corrupted, not erased: strokes still differ from the paper.
    assert (distorted.max(axis=(1, 2, 3)) - distorted.min(axis=(1, 2, 3)) > 50).all()
    assert np.array_equal(distortions.distort(images, distortion), distorted)
    assert len(np.unique(distorted, axis=0)) == len(images)


def test_a_shift_is_four_pixels_along_both_axes() -> None:
    dot = np.zeros((8, 28, 28, 1), np.uint8)
    dot[:, 14, 14] = 255
    rows, columns = np.nonzero(distortions.distort(dot, distortions.shift)[..., 0])[1:]
    assert set(rows) == {10, 18}
    assert set(columns) == {10, 18}
