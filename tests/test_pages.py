"""Training pages of a reader: glyphs, boxes and targets."""

import itertools
import os
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from time_limits import scaled

from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pages import Composer, Page, frame, glyphs, strokes
from keras_digitnet.pages.batches import PageBatches
from keras_digitnet.pages.glyphs import SIDE, GlyphSource, _thinned
from keras_digitnet.pages.ink import Ink


@pytest.fixture(scope="module")
def source(few_digits: Dataset) -> GlyphSource:
    return GlyphSource(few_digits.train.images, few_digits.train.labels, few_digits.classes)


@pytest.fixture(scope="module")
def composed(source: GlyphSource) -> list[Page]:
    compose = Composer(source, (48, 192), 10)
    return [compose.compose(np.random.default_rng([0, index])) for index in range(300)]


def same(first: Page, second: Page) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("image", "boxes", "labels", "ignored")
    )


def test_the_same_seed_composes_the_same_page(source: GlyphSource, composed: list[Page]) -> None:
    again = Composer(source, (48, 192), 10).compose(np.random.default_rng([0, 7]))
    assert same(again, composed[7])
    assert not same(again, composed[8])


def test_boxes_lie_on_the_page_and_have_the_target_sizes(composed: list[Page]) -> None:
    boxes = np.concatenate([page.boxes for page in composed])
    assert len(boxes) > 600
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 48).all()
    heights = boxes[:, 3] - boxes[:, 1]
    # A character may be clipped to three quarters of its size.
    assert heights.min() >= 0.7 * frame.LOWEST and heights.max() <= frame.HIGHEST


def test_every_class_occurs_and_some_pages_have_no_character(composed: list[Page]) -> None:
    counts = np.bincount(np.concatenate([page.labels for page in composed]), minlength=10)
    assert counts.min() > 0.5 * counts.mean()
    empty = np.mean([not len(page.labels) and not len(page.ignored) for page in composed])
    assert 0.05 < empty < 0.4


def test_a_box_fits_its_character_tightly(source: GlyphSource) -> None:
    random = np.random.default_rng(3)
    compose = Composer(source, (48, 192), 10)
    for label in range(10):
        ink = Ink(48, 192)
        hand = replace(
            compose._handwriting(random, 0, 1), height=30, middle=24, left=60, slope=0, darkness=1
        )
        compose._write(ink, hand.draw(random, label), hand, 60, 1.0, 0.0, random)
        left, top, right, bottom, written = ink.boxes[0]
        rows, columns = np.nonzero(ink.layer > 0.35)
        assert written == label
        held = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        # The box may or may not include faint ink at the edge.
        assert np.abs(np.subtract((left, top, right, bottom), held)).max() <= 1


def test_letters_are_clutter_only_if_none_is_a_class(
    few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = few_digits.train
    random = np.random.default_rng(0)
    letters = GlyphSource(train.images, train.labels, tuple(string.ascii_lowercase[:10]))
    monkeypatch.setattr(glyphs, "_letters", None)  # must not be called
    assert not letters.digits_only
    marks = {-1, glyphs.UNCLEAR}  # a slash may be a 1
    assert {letters.clutter(random).label for _ in range(50)} <= marks
    assert letters.letter(random, letters.font(random)).label in marks
    # Nor are the strokes of digits used.
    letters.styled(random, 3)


def test_a_hidden_character_is_not_a_target(source: GlyphSource) -> None:
    random = np.random.default_rng(3)
    compose = Composer(source, (48, 192), 10)
    ink = Ink(48, 192)
    hand = replace(
        compose._handwriting(random, 0, 1), height=30, middle=24, left=60, slope=0, darkness=1
    )
    compose._write(ink, source.outline(random, 5), hand, 60, 1.0, 0.0, random)
    shown = np.round(255 * (1 - 0.5 * ink.layer)).astype(np.uint8)
    hidden = random.integers(0, 256, shown.shape, dtype=np.uint8)
    whole = (0, 0, 192, 48)
    for image in (shown, 255 - shown):
        assert len(frame.page_with_targets(image, ink, whole).boxes) == 1
    page = frame.page_with_targets(hidden, ink, whole)
    assert (len(page.boxes), len(page.ignored)) == (0, 1)


@pytest.mark.parametrize("label", range(10))
def test_drawn_digits_fill_their_field_and_differ(source: GlyphSource, label: int) -> None:
    random = np.random.default_rng(label)
    drawn = [source.styled(random, label) for _ in range(8)]
    assert {glyph.label for glyph in drawn} == {label}
    for glyph in drawn:
        rows, columns = np.nonzero(glyph.field < 1)
        assert 30 <= np.ptp(rows) + 1 <= 44
        assert np.ptp(columns) + 1 <= SIDE - 4
    assert len({glyph.field.tobytes() for glyph in drawn}) == len(drawn)


def test_a_skeleton_is_thin_connected_and_inside_its_ink() -> None:
    import cv2

    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (28, 28), (12, 18), 20, 0, 360, 1, 7)
    skeleton = _thinned(mask[None])[0]
    assert not (skeleton & ~mask & 1).any()
    assert cv2.connectedComponents(skeleton, connectivity=8)[0] == 2
    # A thin curve contains no 2x2 square of pixels.
    blocks = skeleton[:-1, :-1] & skeleton[1:, :-1] & skeleton[:-1, 1:] & skeleton[1:, 1:]
    assert not blocks.any()
    around = mask.copy()
    cv2.floodFill(around, None, (0, 0), 1)
    assert (around == 0).any() and cv2.connectedComponents(1 - skeleton, connectivity=4)[0] == 3


def test_a_stroke_goes_through_its_points() -> None:
    points = np.array([(0.0, 0.0), (0.5, 0.2), (0.3, 0.8), (1.0, 1.0)])
    path = strokes.smooth(points)
    away = np.linalg.norm(path[:, None] - points[None], axis=2).min(axis=0)
    assert away.max() < 1e-9


@pytest.mark.parametrize("repeated", [True, False])
def test_padding_keeps_the_picture_at_its_position(repeated: bool) -> None:
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    padded = frame.padded(image, (2, 1, 3, 4), repeated)
    assert padded.shape == (8, 13)
    assert np.array_equal(padded[2:7, 3:9], image)


# Worker processes


@pytest.fixture
def batches(source: GlyphSource) -> PageBatches:
    return PageBatches(Composer(source, (48, 192), 10), seed=3, pages=range(2))


def endless() -> Iterator[tuple[int, int]]:
    return ((0, step) for step in itertools.count())


def workers_of(process: int) -> list[int]:
    """The processes that compose for a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_text()
        except OSError:  # ended meanwhile
            continue
        if int(parent) == process and "popen_loky" in command:
            found.append(int(folder.name))
    return found


def test_workers_compose_the_same_batches_in_the_same_order(batches: PageBatches) -> None:
    alone = itertools.islice(batches.in_order(endless(), 0), 12)
    together = itertools.islice(batches.in_order(endless(), 2), 12)
    for (images, wanted), (other_images, other_wanted) in zip(alone, together, strict=True):
        assert np.array_equal(images, other_images)
        assert np.array_equal(wanted, other_wanted)


def test_a_killed_worker_ends_the_training_with_one_message(batches: PageBatches) -> None:
    composed = batches.in_order(endless(), 2)
    next(composed)
    time.sleep(scaled(1))  # until they wait for work, since the pool hangs on half an answer
    for worker in workers_of(os.getpid()):
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(DigitNetError, match=r"pages: expected 2 processes .* received"):
        for _ in range(100):
            next(composed)


def test_a_worker_that_no_longer_answers_ends_the_training_too(
    batches: PageBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = batches.in_order(endless(), 1)
    next(composed)
    monkeypatch.setattr("keras_digitnet.pages.batches._TIMEOUT", 1.0)
    (worker,) = workers_of(os.getpid())
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(DigitNetError, match=r"pages: expected 1 processes .* no pages within 1 s"):
        for _ in range(100):
            next(composed)
    os.kill(worker, signal.SIGCONT)


SCRIPT = """
import itertools, time
import numpy as np
from keras_digitnet.pages import Composer, GlyphSource
from keras_digitnet.pages.batches import PageBatches

images = np.zeros((10, 28, 28, 1), np.uint8)
images[:, 5:20, 10:14] = 255
source = GlyphSource(images, np.arange(10), tuple("0123456789"))
batches = PageBatches(Composer(source, (48, 192), 10), 0, range(2))
composed = batches.in_order(((0, step) for step in itertools.count()), 2)
next(composed)
print("composing", flush=True)
time.sleep(600)
"""


def test_workers_end_after_a_training_that_was_killed(tmp_path: Path) -> None:
    # A script without `if __name__ == "__main__"`, as people write them: workers must not run it.
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "composing\n"
        workers = workers_of(training.pid)
        training.kill()
    assert len(workers) == 2
    until = time.monotonic() + scaled(60)
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
