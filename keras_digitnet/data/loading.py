"""Every way that labelled images come in, and every check of them."""

import gzip
import hashlib
import http.client
import logging
import math
import os
import re
import struct
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from keras_digitnet.artifacts import MOST_UNPACKED, expanded, written_whole
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.images import SIDE, read_image

logger = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 120.0

_KERAS_DATASETS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
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
_IDX_IMAGES = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?", re.IGNORECASE
)


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
        validation: A stratified part of the training images, held back.
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
class _Source:
    """Images and labels as they were found: labels are still the source's own numbers."""

    name: str
    source: str
    train: Split
    test: Split | None
    class_names: dict[int, str] | None = None


def load_dataset(source: str = "auto", *, seed: int = 0, validation_size: float = 0.05) -> Dataset:
    """Finds, checks and splits a data set.

    Args:
        source: `auto`, `mnist`, `digits` (scikit-learn's, bundled),
            `fashion_mnist`, a `.npz` file in Keras's layout (`x_train`,
            `y_train`, `x_test`, `y_test`), a folder of IDX files, plain or
            `.gz`, or a folder of class folders of images, with or without
            `train/` and `test/`. `auto` takes what `KERAS_DIGITNET_DATA`
            names, else MNIST from Keras's cache or the network, else `digits`.
        seed: Seeds the validation split; the test images never depend on it.
        validation_size: Fraction of the training images to hold back.

    Raises:
        DigitNetError: Nothing usable is there; the message names the file.
    """
    found = _find(source)
    train = _checked(found.train, f"{found.source}: training set")
    test = _checked(found.test, f"{found.source}: test set") if found.test else None
    classes, train, test = _number_classes(train, test, found)
    if test is None:
        # Never the run's seed: another seed must not learn from these.
        train, test = _stratified_split(train, 0.2, 0, found.source)
    train, validation = _stratified_split(train, validation_size, seed, found.source)
    return Dataset(found.name, found.source, classes, train, validation, test)


def is_at_hand(source: str) -> bool:
    """Whether `load_dataset(source)` finds its files without a network."""
    needed = {
        "mnist": ("mnist.npz",),
        "fashion_mnist": tuple(f"fashion-mnist/{name}" for name in _FASHION_MNIST_MD5),
    }
    if source in needed:
        return all(_cache_path(name).is_file() for name in needed[source])
    return source == "digits" or expanded(source).exists()


def _find(source: str) -> _Source:
    named: dict[str, Callable[[], _Source]] = {
        "auto": _auto,
        "mnist": _mnist,
        "digits": _bundled_digits,
        "fashion_mnist": _fashion_mnist,
    }
    if source in named:
        return named[source]()
    path = expanded(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _npz(path)
    raise DigitNetError(
        f"--data: expected {', '.join(named)}, a .npz file or a folder; "
        f"received: {source!r}, which does not exist."
    )


# Named data sets


def _auto() -> _Source:
    if source := os.environ.get("KERAS_DIGITNET_DATA"):
        if not expanded(source).exists():
            raise DigitNetError(
                "KERAS_DIGITNET_DATA: expected a file or folder; "
                f"received: {source!r}, which does not exist."
            )
        # Absolute, so that a folder called "mnist" is not taken for the data set's name.
        return _find(str(expanded(source).absolute()))
    try:
        return _mnist()
    except _DownloadError as error:
        logger.warning(
            "MNIST cannot be downloaded (%s): using scikit-learn's bundled 8x8 digits instead, "
            "whose results are not MNIST's. --data PATH names other images.",
            error.reason,
        )
        return _bundled_digits()


def _mnist() -> _Source:
    path = _cached("mnist.npz", "sha256", _MNIST_SHA256)
    arrays = _npz(path)
    return _Source("mnist", "mnist", arrays.train, arrays.test)


def _fashion_mnist() -> _Source:
    paths = [
        _cached(f"fashion-mnist/{name}", "md5", digest, url=_KERAS_DATASETS + name)
        for name, digest in _FASHION_MNIST_MD5.items()
    ]
    arrays = _folder(paths[0].parent)
    names = dict(enumerate(_FASHION_MNIST_CLASSES))
    return _Source("fashion_mnist", "fashion_mnist", arrays.train, arrays.test, names)


def _bundled_digits() -> _Source:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.stack([_mnist_form(image) for image in images.reshape(-1, 8, 8)])
    return _Source("digits", "digits", Split(images, labels), test=None)


def _mnist_form(image: np.ndarray) -> np.ndarray:
    """An 8x8 digit of 0 to 16 as MNIST has it: 20x20, centred by mass in 28x28 uint8."""
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


def _cached(name: str, algorithm: str, digest: str, url: str | None = None) -> Path:
    """A file of Keras's data cache, downloaded where it is not there yet."""
    path = _cache_path(name)
    if not path.is_file():
        _download(url or _KERAS_DATASETS + name, path, algorithm, digest)
    return path


def _cache_path(name: str) -> Path:
    home = expanded(os.environ.get("KERAS_HOME") or "~/.keras")
    return home / "datasets" / name


class _DownloadError(DigitNetError):
    """The network is missing, slow or lies; `auto` goes on without it."""

    def __init__(self, url: str, reason: object) -> None:
        super().__init__(
            f"{url}: expected to download it; received: {reason}. "
            "Mend the network, or name images of your own with --data PATH."
        )
        self.reason = reason


def _download(url: str, path: Path, algorithm: str, digest: str) -> None:
    """Fetches a file whose hash is known, within `DOWNLOAD_SECONDS`."""
    logger.info("Downloading %s", url)
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    received = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=10) as response, written_whole(path) as temporary:
            with temporary.open("wb") as file:
                while chunk := response.read1(1 << 16):
                    if time.monotonic() > deadline:
                        raise _DownloadError(url, f"not done in {DOWNLOAD_SECONDS:.0f} s")
                    received.update(chunk)
                    file.write(chunk)
            if received.hexdigest() != digest:
                found = received.hexdigest()
                raise _DownloadError(url, f"{algorithm} {found} where {digest} is right")
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(url, getattr(error, "reason", error)) from None


# Files and folders


def _npz(path: Path) -> _Source:
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no zip archive")
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if not _is_bearable(unpacked, path):
            raise ValueError(f"an archive that unpacks to {unpacked:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            if not set(wanted) <= set(file.files):
                raise ValueError(f"the arrays {', '.join(sorted(file.files)[:10]) or 'none'}")
            arrays = {key: file[key] for key in wanted}
        if not all(isinstance(array, np.ndarray) and array.ndim for array in arrays.values()):
            raise ValueError("something that is no list of images or labels")
    except Exception as error:  # NumPy and zipfile let through whatever their parsers raise
        raise DigitNetError(
            f"{path}: expected a .npz file in Keras's layout ({', '.join(wanted)}); "
            f"received: {first_line(error)}."
        ) from None
    train = Split(arrays["x_train"], arrays["y_train"])
    test = Split(arrays["x_test"], arrays["y_test"])
    return _Source(path.stem, str(path.absolute()), train, test)


def _folder(path: Path) -> _Source:
    names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if not names:
        raise DigitNetError(f"{path}: expected IDX files or class folders; the folder is empty.")
    if any(_IDX_IMAGES.fullmatch(name) for name in names):
        return _idx_folder(path, names)
    return _class_folders(path)


def _idx_folder(path: Path, names: list[str]) -> _Source:
    matches = [match for name in sorted(names) if (match := _IDX_IMAGES.fullmatch(name))]
    sets = {match["set"] for match in matches}
    if len(sets) > 1:
        raise DigitNetError(
            f"{path}: expected one data set; received: {', '.join(sorted(sets))}. "
            "Put each into a folder of its own."
        )
    prefix = sets.pop()
    splits: dict[str, Split] = {}
    for match in matches:
        images_path = path / match[0]
        labels_path = _labels_beside(images_path)
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if prefix.lower().startswith("emnist"):
            images = images.transpose(0, 2, 1)  # EMNIST is published lying on its side
        splits["train" if match["split"].lower() == "train" else "test"] = Split(images, labels)
    if "train" not in splits:
        raise DigitNetError(
            f"{path}: expected train-images-idx3-ubyte; received: {', '.join(sorted(names)[:10])}."
        )
    return _Source(
        (prefix.strip("-_. ") or path.absolute().name),
        str(path.absolute()),
        splits["train"],
        splits.get("test"),
        _emnist_names(path / f"{prefix}mapping.txt"),
    )


def _labels_beside(images_path: Path) -> Path:
    name = images_path.name.replace("images", "labels").replace("idx3", "idx1")
    plain = images_path.with_name(name.removesuffix(".gz"))
    for path in (images_path.with_name(name), plain, plain.with_name(plain.name + ".gz")):
        if path.is_file():
            return path
    raise DigitNetError(f"{images_path}: expected its labels beside it, in {name}; there are none.")


def _emnist_names(path: Path) -> dict[int, str] | None:
    """EMNIST's mapping: a label and the codes of its characters, a line a class."""
    if not path.is_file():
        return None
    try:
        rows = [[int(part) for part in line.split()] for line in path.read_text().splitlines()]
        return {row[0]: chr(row[1]) for row in rows if row}
    except (ValueError, IndexError, OverflowError) as error:
        raise DigitNetError(
            f"{path}: expected a label and a character code a line; received: {error}."
        ) from None


def _is_bearable(unpacked: int, path: Path) -> bool:
    """Digits pack 5 to 1: what unpacks to 20 times its size is none, if it is large."""
    return unpacked <= max(MOST_UNPACKED, 20 * path.stat().st_size)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A uint8 array of so many dimensions from an IDX file, plain or `.gz`.

    Layout: two zero bytes, the type (8 for uint8), the number of dimensions,
    each size as a big-endian uint32, the bytes (LeCun, "The MNIST database").

    Raises:
        DigitNetError: It is no such file, is cut short, or holds too much.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with cast(BinaryIO, opener(path, "rb")) as file:
            magic = file.read(4)
            if magic != bytes((0, 0, 8, dimensions)):
                raise DigitNetError(
                    f"{path}: expected an IDX file of uint8 in {dimensions} dimensions (magic "
                    f"0000080{dimensions}); received: magic {magic.hex() or 'none'}."
                )
            header = file.read(4 * dimensions)
            if len(header) < 4 * dimensions:
                raise DigitNetError(f"{path}: the IDX header is cut short; get the file again.")
            shape = struct.unpack(f">{dimensions}I", header)
            expected = math.prod(shape)
            # One byte more than expected tells a file that is too long; the
            # header's word alone never decides how much memory is taken.
            content = file.read(expected + 1 if _is_bearable(expected, path) else 1)
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise DigitNetError(f"{path}: expected an IDX file; received: {error}.") from None
    if len(content) != expected:
        received = f"{len(content)}" if len(content) < expected else "more"
        raise DigitNetError(
            f"{path}: expected {expected} bytes for shape {shape}; received: {received}. "
            "The file is damaged; get it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _class_folders(path: Path) -> _Source:
    train_dir = path / "train" if (path / "train").is_dir() else path
    test_dir = path / "test" if (path / "test").is_dir() else None
    if train_dir == path and test_dir:
        raise DigitNetError(f"{path}: expected train/ beside test/; there is none.")
    names = sorted((folder.name for folder in _class_dirs(train_dir)), key=_natural)
    if not names:
        raise DigitNetError(
            f"{path}: expected IDX files or a folder of images for each class (0/, 1/, ...); "
            "there is none."
        )
    for name in names:
        if not _entries(train_dir / name):
            raise DigitNetError(f"{train_dir / name}: expected images; the folder is empty.")
    train, resized = _read_classes(train_dir, names)
    test = None
    if test_dir:
        test, more = _read_classes(test_dir, names)
        resized += more
    if resized:
        logger.warning("%s: %d images are not 28x28 and were resized.", path, resized)
    return _Source(path.absolute().name, str(path.absolute()), train, test, dict(enumerate(names)))


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _class_dirs(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _natural(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else 10**9, name)


def _read_classes(folder: Path, names: list[str]) -> tuple[Split, int]:
    images, labels, resized = [], [], 0
    for class_dir in _class_dirs(folder):
        if class_dir.name not in names:
            raise DigitNetError(
                f"{class_dir}: expected only the class folders {', '.join(names)} in {folder}."
            )
        for path in _entries(class_dir):
            image, as_it_is = read_image(path)
            resized += not as_it_is
            images.append(image)
            labels.append(names.index(class_dir.name))
    if not images:
        raise DigitNetError(f"{folder}: expected images in the class folders; they are empty.")
    return Split(np.stack(images), np.array(labels)), resized


# Checks and splits


def _checked(split: Split, where: str) -> Split:
    return Split(_checked_images(split.images, where), _checked_labels(split, where))


def _checked_images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or len(images) == 0:
        raise DigitNetError(
            f"{where}: expected images of shape (N, 28, 28), N at least 1; "
            f"received: {images.shape}."
        )
    if images.dtype.kind not in "iu":
        holes = images.dtype.kind == "f" and not np.isfinite(images).all()
        raise DigitNetError(
            f"{where}: expected whole numbers from 0 to 255 (uint8); "
            f"received: {images.dtype}{' with NaN or infinity' if holes else ''}."
        )
    if images.dtype != np.uint8:
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise DigitNetError(
                f"{where}: expected values from 0 to 255; received: {low} to {high}."
            )
        images = images.astype(np.uint8)
    return np.ascontiguousarray(images)[..., None]


def _checked_labels(split: Split, where: str) -> np.ndarray:
    labels = split.labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DigitNetError(
            f"{where}: expected labels of shape (N,) in whole numbers; "
            f"received: {labels.dtype} {labels.shape}."
        )
    if len(labels) != len(split.images):
        raise DigitNetError(
            f"{where}: expected as many labels as images ({len(split.images)}); "
            f"received: {len(labels)}."
        )
    return labels.astype(np.int64)


def _number_classes(
    train: Split, test: Split | None, found: _Source
) -> tuple[tuple[str, ...], Split, Split | None]:
    """Names the classes, and makes each label the index of its class."""
    values = np.unique(train.labels)
    first = int(values[0])
    if first not in (0, 1) or len(values) < 2 or values[-1] != first + len(values) - 1:
        raise DigitNetError(
            f"{found.source}: labels out of range: expected two or more, from 0 or 1 on without "
            f"gaps; received: {_shortened(values)}."
        )
    if test is not None:
        if len(unknown := np.setdiff1d(test.labels, values)):
            raise DigitNetError(
                f"{found.source}: labels out of range: the test set has classes that the "
                f"training set lacks; received: {_shortened(unknown)}."
            )
        test = Split(test.images, test.labels - first)
    names = found.class_names or {}
    classes = tuple(names.get(int(value), str(value)) for value in values)
    return classes, Split(train.images, train.labels - first), test


def _shortened(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:12])
    return shown + (" ..." if len(values) > 12 else "")


def _stratified_split(split: Split, size: float, seed: int, where: str) -> tuple[Split, Split]:
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
