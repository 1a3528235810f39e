"""Labelled images, as they were found and as a run uses them."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
        images: `(N, 28, 28, 1)` uint8, light on dark.
        labels: `(N,)` int64, each the index of its class.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """What a run learns from, chooses by, and is judged on.

    Attributes:
        name: A short name for people.
        source: What `load_dataset` takes to find the same images again.
        classes: The classes' names; a label is an index into them.
        train: What the weights are fitted to.
        validation: What chooses among them: the set's own, else a stratified
            part of the training images, held back.
        test: Scored once, at the end.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def fingerprint(self) -> str:
        """A hash of every image and label in their order."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """Images and labels as they were found.

    Attributes:
        name: A short name for people.
        source: What `load_dataset` takes to find the same images again.
        splits: By name, of `train`, `validation` and `test`; their labels are
            the source's own numbers, or the names of their classes.
        class_names: Names of numbers, where the source tells them.
        in_mnist_form: Whether they need no look at their values: published, or
            pictures that `normalize_digit` has seen.
    """

    name: str
    source: str
    splits: dict[str, Split]
    class_names: dict[int, str] | None = None
    in_mnist_form: bool = False


def stratified_split(split: Split, size: float, seed: int, where: str) -> tuple[Split, Split]:
    """The split without a part of it, and that part: every class in proportion.

    The part has as many images as there are classes at least; scikit-learn
    asks for that.
    """
    from sklearn.model_selection import train_test_split

    count = max(round(size * len(split)), len(np.unique(split.labels)))
    try:
        kept, held_back = train_test_split(
            np.arange(len(split)), test_size=count, random_state=seed, stratify=split.labels
        )
    except ValueError as error:
        raise DigitNetError(
            f"{where}: too few images to hold back {size:.1%} of every class: {error}"
        ) from None
    return split[kept], split[held_back]
