"""The second look at what a reader found: its windows, its data set, and what it changes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from keras_digitnet.data import Dataset
from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.pages import Page
from keras_digitnet.pictures.window import window
from keras_digitnet.reading.finding import Character
from keras_digitnet.reading.inference import Classifier
from keras_digitnet.reading.verifying import NONE, verified

sys.path.append(str(ROOT / "scripts"))
import compose_crops

EVEN = np.full(10, 0.1, np.float32)


def picture() -> np.ndarray:
    """A dark stroke of 40x10 pixels on grey paper, with another close to it."""
    grey = np.full((100, 120), 180, np.uint8)
    grey[30:70, 50:60] = 40
    grey[30:70, 68:72] = 40
    return grey


STROKE = (50.0, 30.0, 60.0, 70.0)


def test_a_window_shows_the_box_in_its_middle_with_its_neighbours() -> None:
    seen = window(picture(), STROKE)
    assert seen.shape == (28, 28)
    dark = seen < 100
    rows, columns = np.nonzero(dark[:, :17])
    assert 18 <= np.ptp(rows) + 1 <= 20  # two thirds of the side
    assert abs(columns.mean() - 13.5) < 1
    assert dark[:, 18:].any()  # the other stroke


@pytest.mark.parametrize("change", [lambda g: g // 2 + 90, lambda g: g - 30, lambda g: 255 - g])
def test_contrast_brightness_and_size_of_the_picture_do_not_matter(change: object) -> None:
    seen = window(picture(), STROKE).astype(int)
    changed = window(change(picture()), STROKE).astype(int)  # type: ignore[operator]
    if np.corrcoef(seen.ravel(), changed.ravel())[0, 1] < 0:
        changed = 256 - changed
    assert np.abs(seen - changed).mean() < 3
    large = np.kron(picture(), np.ones((4, 4), np.uint8))
    of_large = window(large, tuple(4 * side for side in STROKE)).astype(int)
    assert np.abs(seen - of_large).mean() < 6


@pytest.mark.parametrize(
    "box", [(-40, -30, 20, 30), (110, 90, 300, 300), (5, 5, 5, 5), (-90, -90, -50, -50)]
)
def test_a_window_may_reach_beyond_the_picture(box: tuple[float, ...]) -> None:
    assert window(picture(), box).shape == (28, 28)
    assert window(np.full((1, 1), 7, np.uint8), box).std() == 0


def verifier(answers: np.ndarray) -> Classifier:
    names = (*map(str, range(10)), NONE)
    runtime = Runtime("verifier", lambda images: (answers, answers.argmax(axis=1)), 11)
    return Classifier(runtime, names)


def test_what_the_verifier_rejects_is_hardly_present_and_what_it_names_is_that() -> None:
    characters = [Character(STROKE, presence, EVEN) for presence in (0.9, 0.9, 0.3)]
    answers = np.full((3, 11), 0.001, np.float32)
    answers[[0, 1, 2], [10, 4, 7]] = 0.99
    rejected, four, seven = verified(picture(), characters, verifier(answers))
    assert rejected.presence < 0.2
    assert four.presence > 0.95
    assert seven.presence > 0.8  # which the reader alone doubts
    assert (four.probabilities.argmax(), seven.probabilities.argmax()) == (4, 7)
    assert four.box == STROKE
    assert four.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert verified(picture(), [], verifier(answers)) == []


def test_proposals_are_labelled_by_the_digits_that_they_share() -> None:
    boxes = np.array([(20, 10, 36, 34), (60, 10, 76, 34)], np.float32)
    page = Page(
        np.zeros((48, 192), np.uint8),
        boxes,
        np.array([3, 8]),
        np.array([(120, 5, 160, 40)], np.float32),
    )
    proposals = np.array(
        [
            (21, 11, 37, 35),  # the first digit
            (30, 10, 46, 34),  # half of it: left out
            (90, 10, 106, 34),  # nothing
            (130, 10, 146, 34),  # what the page leaves open
            (90, 40, 94, 45),  # too low
        ],
        np.float32,
    )
    found = list(
        compose_crops.labelled(
            page, (proposals, np.linspace(0.9, 0.5, 5), EVEN), np.random.default_rng(0)
        )
    )
    assert [label for _, label in found] == [3, -1, 8]
    assert np.abs(found[2][0] - boxes[1]).max() < 8  # the missed one, displaced


def test_the_data_set_has_all_classes_and_its_pages_never_change(
    mnist: Dataset, tmp_path: Path
) -> None:
    part = (mnist.source, "test", compose_crops.TEST_STREAM, 0, 30)
    images, labels = compose_crops._crops(part)
    assert images.shape == (len(labels), 28, 28)
    assert images.dtype == np.uint8
    assert set(labels) == {*map(str, range(10)), NONE}
    again, _ = compose_crops._crops(part)
    assert np.array_equal(images, again)
