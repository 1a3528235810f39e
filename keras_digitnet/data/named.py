"""The data sets that can be loaded by name."""

import hashlib
import os
from pathlib import Path

import numpy as np

from keras_digitnet.artifacts import expanded
from keras_digitnet.config import SIDE
from keras_digitnet.data import downloads, idx, npz
from keras_digitnet.data.splits import Source, Split

_MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
_FASHION_MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist() -> Source:
    """MNIST: the file that KERAS_DIGITNET_DATA names, from Keras's cache or the network."""
    path = _own_mnist() or downloads.cached("mnist.npz", "sha256", _MNIST_SHA256)
    return Source("mnist", "mnist", npz.read(path).splits, in_mnist_form=True)


def _own_mnist() -> Path | None:
    """The file that KERAS_DIGITNET_DATA names, if it is MNIST as Keras publishes it."""
    named = os.environ.get("KERAS_DIGITNET_DATA")
    if not named or not (path := expanded(named)).is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path if digest == _MNIST_SHA256 else None


def fashion_mnist() -> Source:
    """Fashion-MNIST, from Keras's cache or the network."""
    paths = [
        downloads.cached(f"fashion-mnist/{name}", "md5", digest, downloads.KERAS_DATASETS + name)
        for name, digest in _FASHION_MNIST_MD5.items()
    ]
    splits = idx.read(paths[0].parent).splits
    names = dict(enumerate(_FASHION_MNIST_CLASSES))
    return Source("fashion_mnist", "fashion_mnist", splits, names, in_mnist_form=True)


def bundled_digits() -> Source:
    """scikit-learn's bundled 8x8 digits in MNIST's form, without a test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.stack([_mnist_form(image) for image in images.reshape(-1, 8, 8)])
    return Source("digits", "digits", {"train": Split(images, labels)}, in_mnist_form=True)


def is_available_offline(name: str) -> bool:
    """Whether a data set is available without a network."""
    needed = {
        "mnist": ("mnist.npz",),
        "fashion_mnist": tuple(f"fashion-mnist/{name}" for name in _FASHION_MNIST_MD5),
        "digits": (),
    }
    if name == "mnist" and _own_mnist():
        return True
    return all(downloads.cache_path(file).is_file() for file in needed[name])


def _mnist_form(image: np.ndarray) -> np.ndarray:
    """An 8x8 digit of values from 0 to 16 in MNIST's form, `(28, 28)` uint8."""
    from PIL import Image

    grey = Image.fromarray((image / 16 * 255).astype(np.uint8))
    digit = np.asarray(grey.resize((20, 20), Image.Resampling.BICUBIC))
    rows, columns = np.indices(digit.shape)
    mass = max(int(digit.sum()), 1)
    top = round(13.5 - float((rows * digit).sum() / mass))
    left = round(13.5 - float((columns * digit).sum() / mass))
    top, left = np.clip((top, left), 0, SIDE - 20)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[top : top + 20, left : left + 20] = digit
    return canvas


# The data sets by name.
NAMED = {"mnist": mnist, "digits": bundled_digits, "fashion_mnist": fashion_mnist}
