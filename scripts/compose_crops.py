"""Composes the data set on which the verifier is trained: what the reader finds on training pages.

    python scripts/compose_crops.py crops.npz

Pages are composed of MNIST's digits as in the reader's training. Each box that the
reader proposes is cut out (`keras_digitnet.pictures.window`) and labelled: the digit
whose box it is, or `none`. Digits that it misses are cut out at their true boxes,
slightly displaced. The file has Keras's layout, for `keras-digitnet train --data`.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from keras_digitnet.artifacts import atomic_write
from keras_digitnet.config import ReaderConfig
from keras_digitnet.data import load_dataset
from keras_digitnet.pages import Composer, GlyphSource, Page
from keras_digitnet.pictures.window import window
from keras_digitnet.reading.finding import Peaks, Reader
from keras_digitnet.reading.inference import load
from keras_digitnet.reading.verifying import NONE

# Training pages come in two streams of random numbers, test pages in a third.
TRAIN_STREAMS, TEST_STREAM = (0, 1), 2
PAGES = 40_000  # of each training stream
BLOCK = 10_000  # pages that one process composes at a time
# A box that shares more of its union with a digit's is that digit, one that shares less is none.
SAME, OTHER = 0.4, 0.15
MOST_NONE = 5  # per page
LOWEST = 8  # pixels; lower boxes are not sought in pictures either
DISPLACED = 0.05  # of the longer side, standard deviation
PAGES_SEED, BOXES_SEED = 4242, 777

Part = tuple[str, str, int, int, int]


def main(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .npz file.")],
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`.")] = "mnist",
    pages: Annotated[int, typer.Option(help="Training pages of each of two streams.")] = PAGES,
    test_pages: Annotated[int, typer.Option(help="Pages of test digits.")] = 1000,
) -> None:
    """Writes the crops of training and test pages."""
    parts: list[Part] = [
        (data, "train", stream, first, min(BLOCK, pages - first))
        for stream in TRAIN_STREAMS
        for first in range(0, pages, BLOCK)
    ]
    parts.append((data, "test", TEST_STREAM, 0, test_pages))
    with ProcessPoolExecutor() as pool:
        *training, test = pool.map(_crops, parts)
    arrays: dict[str, Any] = {
        "x_train": np.concatenate([images for images, _ in training]),
        "y_train": np.concatenate([labels for _, labels in training]),
        "x_test": test[0],
        "y_test": test[1],
    }
    with atomic_write(out) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"{out}: {len(arrays['y_train']):,} training and {len(arrays['y_test']):,} test crops")


def _crops(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """The crops `(N, 28, 28)` uint8 of some pages of a split, and their labels `(N,)` as text."""
    data, split, stream, first, count = part
    dataset = load_dataset(data)
    characters = getattr(dataset, split)
    source = GlyphSource(characters.images, characters.labels, dataset.classes)
    composer = Composer(source, ReaderConfig().page, len(dataset.classes))
    reader = load("reader", threads=1)
    assert isinstance(reader, Reader)
    random = np.random.default_rng([BOXES_SEED, stream])
    names = np.array([*dataset.classes, NONE])
    images, labels = [], []
    for number in range(first, first + count):
        page = composer.compose(np.random.default_rng([PAGES_SEED, stream, number]))
        for box, label in labelled(page, reader.proposals(page.image[None, ..., None]), random):
            images.append(window(page.image, box.tolist()))
            labels.append(label)
    return np.stack(images), names[labels]


def labelled(
    page: Page, proposals: Peaks, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, int]]:
    """Boxes `(4,)` of a page with the class of each, -1 for none: the proposed and the missed.

    Proposals that are neither surely a digit nor surely none are left out.
    """
    boxes, presence, _ = proposals
    missed = np.ones(len(page.boxes), bool)
    none = 0
    for box in boxes[np.argsort(-presence)]:
        shared = shared_of_union(page.boxes, box)
        best = int(shared.argmax()) if len(shared) else -1
        if best >= 0 and shared[best] > SAME:
            missed[best] = False
            yield box, int(page.labels[best])
        elif (best < 0 or shared[best] <= OTHER) and none < MOST_NONE and _is_none(page, box):
            none += 1
            yield box, -1
    for box, label in zip(page.boxes[missed], page.labels[missed], strict=True):
        longer = max(box[2:] - box[:2])
        yield box + random.normal(0, DISPLACED, 4) * longer, int(label)


def shared_of_union(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """`(N,)`: how much of their union each of `(N, 4)` boxes shares with one."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (areas + (box[2:] - box[:2]).prod() - shared)


def _is_none(page: Page, box: np.ndarray) -> bool:
    """Whether a box far from all targets is tall enough, and not on what the page leaves open."""
    middle = (box[:2] + box[2:]) / 2
    left_open = ((middle > page.ignored[:, :2]) & (middle < page.ignored[:, 2:])).all(axis=1)
    return bool(box[3] - box[1] >= LOWEST and not left_open.any())


if __name__ == "__main__":
    typer.run(main)
