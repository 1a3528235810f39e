"""Loads a data set by name or path: finds, checks and splits it."""

import logging
import os

from keras_digitnet.artifacts import expanded
from keras_digitnet.data import layouts, named
from keras_digitnet.data.checks import checked, in_mnist_form, number_classes
from keras_digitnet.data.downloads import DownloadError
from keras_digitnet.data.files import as_text
from keras_digitnet.data.splits import Dataset, Source, stratified_split
from keras_digitnet.errors import DigitNetError, did_you_mean, without_credentials

logger = logging.getLogger(__name__)


def load_dataset(source: str = "auto", *, seed: int = 0, validation_size: float = 0.05) -> Dataset:
    """Finds, checks and splits a data set.

    Pictures are normalized as `predict` does (see `normalize_digit`). Arrays are
    assumed to have MNIST's form, but a set that is dark on light is inverted.

    Args:
        source: `auto`, `mnist`, `digits` (scikit-learn's, bundled),
            `fashion_mnist`; a `.npz` file in Keras's layout (`x_train`,
            `y_train`, `x_test`, `y_test`), a CSV file with a label and 784
            pixels per row, a Parquet file with the columns `image` and `label`;
            or a folder of such files, of IDX files, or of class folders of
            pictures, with or without `train/`, `test/` and `valid/`. `auto`
            takes what `KERAS_DIGITNET_DATA` names, else MNIST from Keras's
            cache or the network, else `digits`.
        seed: Seed of the validation split; the test images do not depend on it.
        validation_size: Fraction of the training images to hold out for
            validation, if the set has no validation images of its own.

    Raises:
        DigitNetError: There is no usable data set; the message names the file.
    """
    found = in_mnist_form(checked(_find(source)))
    classes, splits = number_classes(found)
    train, validation, test = (splits.get(name) for name in ("train", "validation", "test"))
    assert train is not None
    if test is None:
        # Not the run's seed: no seed may train on these images.
        train, test = stratified_split(train, 0.2, 0, found.source)
    if validation is None:
        train, validation = stratified_split(train, validation_size, seed, found.source)
    else:
        logger.info("%s: %d validation images of its own.", found.source, len(validation))
    return Dataset(as_text(found.name), found.source, classes, train, validation, test)


def is_available_offline(source: str) -> bool:
    """Whether `load_dataset(source)` finds its files without a network."""
    return (
        named.is_available_offline(source) if source in named.NAMED else expanded(source).exists()
    )


def _find(source: str) -> Source:
    if source == "auto":
        return _auto()
    if source in named.NAMED:
        return named.NAMED[source]()
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise DigitNetError(f"data: expected the name or path of a data set; received: {source!r}.")
    path = expanded(source)
    if path.is_dir() or path.is_file():
        return layouts.read(path)
    raise DigitNetError(
        f"--data: expected auto, {', '.join(named.NAMED)}, a .npz, .csv or .parquet file, or a "
        f"folder; received: {without_credentials(source)!r}, which does not exist."
        + did_you_mean(source, ("auto", *named.NAMED))
    )


def _auto() -> Source:
    if source := os.environ.get("KERAS_DIGITNET_DATA"):
        if not expanded(source).exists():
            raise DigitNetError(
                "KERAS_DIGITNET_DATA: expected a file or folder; "
                f"received: {source!r}, which does not exist."
            )
        # A path, so that a folder called "mnist" is not taken for the data set's name.
        return layouts.read(expanded(source).absolute())
    try:
        return named.mnist()
    except DownloadError as error:
        logger.warning(
            "MNIST cannot be downloaded (%s): using scikit-learn's bundled 8x8 digits instead, "
            "whose results are not comparable with MNIST's. Use other images with --data PATH.",
            error.reason,
        )
        return named.bundled_digits()
