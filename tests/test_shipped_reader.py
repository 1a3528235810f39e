"""The shipped reader has the measured accuracy."""

import sys

import numpy as np
import pytest
from conftest import ROOT

import keras_digitnet as kd
from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.written_lines import write_line

sys.path.append(str(ROOT / "scripts"))
from pages_without_digits import page_without_digits

LINES = 80
# Its measured accuracy; pages without digits are its weakness.
LINES_RIGHT, PAGES_WRONG = 0.953, 0.035


def test_lines_of_test_digits_are_read(mnist: Dataset) -> None:
    random = np.random.default_rng(1)
    lines = [write_line(mnist.test, random) for _ in range(LINES)]
    right = [text_of(line.picture) == "".join(map(str, line.labels)) for line in lines]
    # At most three standard errors below the measured accuracy.
    assert np.mean(right) > LINES_RIGHT - 3 * np.sqrt(LINES_RIGHT * (1 - LINES_RIGHT) / LINES)


def test_nothing_is_read_on_pages_without_digits() -> None:
    pages = [page_without_digits(np.random.default_rng([2, index])) for index in range(LINES)]
    wrong = np.mean([text_of(page) != "" for page in pages])
    assert wrong < PAGES_WRONG + 3 * np.sqrt(PAGES_WRONG * (1 - PAGES_WRONG) / LINES)


def test_single_digits_of_any_position_and_size_are_found(digits: Dataset) -> None:
    """Bundled digits, large and small, off-centre, on light and dark paper."""
    random = np.random.default_rng(0)
    right = []
    for image, label in zip(digits.test.images[:40, ..., 0], digits.test.labels, strict=False):
        side = int(random.integers(60, 300))
        page = np.zeros((side, side), np.uint8)
        top, left = random.integers(0, side - 28, 2)
        page[top : top + 28, left : left + 28] = image
        right.append(text_of(page if random.random() < 0.5 else 255 - page) == str(label))
    assert np.mean(right) > 0.7


def test_tight_crops_of_one_digit_are_read(digits: Dataset) -> None:
    right = []
    for image, label in zip(digits.test.images[:60, ..., 0], digits.test.labels, strict=False):
        rows, columns = (np.flatnonzero(image.max(axis=axis)) for axis in (1, 0))
        crop = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        right.append(text_of(np.where(crop > 100, 0, 255).astype(np.uint8)) == str(label))
    assert np.mean(right) > 0.87


@pytest.mark.parametrize("shape", [(3, 3), (20, 3000), (3000, 20), (1, 1)])
def test_unusual_pictures_get_an_answer_or_one_line(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    for picture in (noise, np.zeros(shape, np.uint8)):
        try:
            assert kd.read(picture).digits
        except DigitNetError as error:
            assert "\n" not in str(error)


def text_of(picture: np.ndarray) -> str:
    try:
        return kd.read(picture).text
    except DigitNetError:
        return ""
