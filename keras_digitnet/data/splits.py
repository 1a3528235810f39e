"""Labelled images: a source as it was read, and a data set with its splits."""

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
        labels: `(N,)` int64, class indices.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """The training, validation and test images of a run.

    Attributes:
        name: A short name for display.
        source: The argument with which `load_dataset` loads the same images.
        classes: The class names; a label is an index into them.
        train: The images on which the weights are trained.
        validation: The images for model selection: the set's own, else a
            stratified held-out part of the training images.
        test: The images that are scored once, at the end.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def fingerprint(self) -> str:
        """The SHA-256 of all images and labels in order, in hexadecimal."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """Images and labels as they were read.

    Attributes:
        name: A short name for display.
        source: The argument with which `load_dataset` loads the same images.
        splits: Some of `train`, `validation` and `test`; labels are the source's
            own numbers or the class names.
        class_names: Names of numeric labels, if the source has them.
        in_mnist_form: Whether the images are known to have MNIST's form: those of
            a published set, or normalized pictures.
    """

    name: str
    source: str
    splits: dict[str, Split]
    class_names: dict[int, str] | None = None
    in_mnist_form: bool = False


def stratified_split(split: Split, size: float, seed: int, where: str) -> tuple[Split, Split]:
    """Holds out a stratified part of a split.

    Args:
        split: The images.
        size: Fraction to hold out. At least as many images as there are classes
            are held out, which scikit-learn requires.
        seed: Seed of the choice.
        where: The data set's name for messages.

    Returns:
        The remaining images and those held out.

    Raises:
        DigitNetError: There are too few images.
    """
    from sklearn.model_selection import train_test_split

    labels, counts = np.unique(split.labels, return_counts=True)
    count = max(round(size * len(split)), len(labels))
    if counts.min() < 2 or len(split) - count < len(labels):
        raise DigitNetError(
            f"{where}: too few images to hold out {size:.1%} of every class: expected two or more "
            f"of each class; received: {len(split)} of {len(labels)} classes, {counts.min()} of "
            "the rarest."
        )
    kept, held_back = train_test_split(
        np.arange(len(split)), test_size=count, random_state=seed, stratify=split.labels
    )
    return split[kept], split[held_back]
