import contextlib
import gzip
import hashlib
import http.server
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_digitnet.data import (
    Dataset,
    Split,
    downloads,
    is_available_offline,
    load_dataset,
    named,
)
from keras_digitnet.errors import DigitNetError

MakeImages = Callable[[int], Split]


def save_npz(path: Path, **arrays: Any) -> Path:
    random = np.random.default_rng(0)
    standard = {
        "x_train": random.integers(0, 256, (200, 28, 28), np.uint8),
        "y_train": np.arange(200, dtype=np.uint8) % 10,
        "x_test": random.integers(0, 256, (50, 28, 28), np.uint8),
        "y_test": np.arange(50, dtype=np.uint8) % 10,
    }
    chosen = {key: value for key, value in (standard | arrays).items() if value is not None}
    np.savez(path, **chosen)
    return path


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def save_idx_folder(
    folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str = "", suffix: str = ""
) -> Path:
    folder.mkdir(exist_ok=True)
    pack = gzip.compress if suffix else bytes
    test = "test" if prefix.startswith("emnist") else "t10k"
    for split in ("train", test):
        name = f"{prefix}{split}-%s-ubyte{suffix}"
        (folder / (name % "images-idx3")).write_bytes(pack(idx(images)))
        (folder / (name % "labels-idx1")).write_bytes(pack(idx(labels)))
    return folder


def save_class_folders(folder: Path, classes: str, count: int = 20, size: int = 28) -> Path:
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (size, size), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


# Loading


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_as_mnist_publishes_them(
    tmp_path: Path, random_images: MakeImages, suffix: str
) -> None:
    split = random_images(200)
    labels = np.arange(200) % 10
    dataset = load_dataset(
        str(save_idx_folder(tmp_path, split.images[..., 0], labels, suffix=suffix))
    )
    assert dataset.classes == tuple("0123456789")
    assert np.array_equal(dataset.test.images, split.images)
    assert np.array_equal(dataset.test.labels, labels)


def test_emnist_letters_are_transposed_and_named(tmp_path: Path, random_images: MakeImages) -> None:
    upright = random_images(260).images
    labels = np.arange(260) % 26 + 1
    lying = upright[..., 0].transpose(0, 2, 1)
    folder = save_idx_folder(tmp_path, lying, labels, prefix="emnist-letters-", suffix=".gz")
    mapping = "".join(f"{label} {64 + label} {96 + label}\n" for label in range(1, 27))
    (folder / "emnist-letters-mapping.txt").write_text(mapping)
    dataset = load_dataset(str(folder))
    assert dataset.name == "emnist-letters"
    assert dataset.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert np.array_equal(dataset.test.labels, labels - 1)
    assert np.array_equal(dataset.test.images, upright)


def test_emnist_letters_without_their_mapping_keep_their_numbers(
    tmp_path: Path, random_images: MakeImages
) -> None:
    images = random_images(260).images[..., 0]
    labels = np.arange(260) % 26 + 1
    folder = save_idx_folder(tmp_path, images, labels, prefix="emnist-letters-")
    assert load_dataset(str(folder)).classes == tuple(str(n) for n in range(1, 27))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images: 255 - images, ["dark on light in {n} of {n} sampled images"]),
        (lambda images: images // 128, ["values from 0 to 1; scaled"]),
        (lambda images: 1 - images // 128, ["values from 0 to 1; scaled", "dark on light"]),
        (lambda images: images // 15, ["values from 0 to 17; scaled"]),
        (lambda images: (images / 255).astype(np.float32), []),
        (lambda images: images.astype(float), []),
        (lambda images: images > 127, []),
    ],
    ids=["dark on light", "a mask", "a dark mask", "few values", "fractions", "floats", "boolean"],
)
def test_arrays_in_another_form_are_converted_with_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    digits: Dataset,
    change: Callable[[np.ndarray], np.ndarray],
    told: list[str],
) -> None:
    """Training and `predict` must use the same images."""
    train, test = digits.train[:400], digits.test[:50]
    path = save_npz(
        tmp_path / "mine.npz",
        x_train=change(train.images[..., 0]),
        y_train=train.labels,
        x_test=change(test.images[..., 0]),
        y_test=test.labels,
    )
    dataset = load_dataset(str(path))
    messages = [record.getMessage() for record in caplog.records]
    both = [
        (name, part.format(n=n)) for name, n in (("training", 200), ("test", 50)) for part in told
    ]
    assert len(messages) == len(both)
    for (name, part), message in zip(both, messages, strict=True):
        assert f"{name} set: " in message
        assert part in message
    assert ((test.images > 127) != (dataset.test.images > 127)).mean() < 0.02
    assert dataset.test.images.max() == 255
    assert dataset.fingerprint() == load_dataset(str(path)).fingerprint()


def test_the_test_images_may_have_another_form_than_the_training_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    path = save_npz(
        tmp_path / "mine.npz",
        x_train=digits.train.images[:400, ..., 0],
        y_train=digits.train.labels[:400],
        x_test=255 - digits.test.images[:50, ..., 0],
        y_test=digits.test.labels[:50],
    )
    assert np.array_equal(load_dataset(str(path)).test.images, digits.test.images[:50])
    (message,) = (record.getMessage() for record in caplog.records)
    assert "test set: dark on light" in message


def test_arrays_that_predict_would_change_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    moved = np.roll(digits.train.images[:400, ..., 0], 4, axis=1)
    load_dataset(
        str(save_npz(tmp_path / "m.npz", x_train=moved, y_train=digits.train.labels[:400]))
    )
    messages = [record.getMessage() for record in caplog.records]
    assert any("of 200 sampled images are not centred" in message for message in messages)


def test_arrays_in_mnists_form_are_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    path = save_npz(
        tmp_path / "mine.npz",
        x_train=digits.train.images,
        y_train=digits.train.labels,
        x_test=digits.test.images,
        y_test=digits.test.labels,
    )
    assert np.array_equal(load_dataset(str(path)).test.images, digits.test.images)
    assert caplog.text == ""


def test_bundled_digits_have_the_form_of_mnist() -> None:
    dataset = load_dataset("digits")
    images = np.concatenate([dataset.train.images, dataset.test.images])[..., 0].astype(float)
    assert (images.max(axis=(1, 2)) > 150).all()
    mass = images.sum(axis=(1, 2))
    rows = (images.sum(axis=2) * np.arange(28)).sum(axis=1) / mass
    columns = (images.sum(axis=1) * np.arange(28)).sum(axis=1) / mass
    assert np.abs(rows - 13.5).max() <= 0.51
    assert np.abs(columns - 13.5).max() <= 0.51


# Splits


def test_the_validation_split_is_stratified_and_seeded() -> None:
    first, again, other = (load_dataset("digits", seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    shares = np.bincount(first.validation.labels) / len(first.validation)
    assert np.abs(shares - 0.1).max() < 0.04
    assert len(load_dataset("digits", validation_size=0.2).validation) == 288


def test_splits_are_disjoint_and_the_test_set_does_not_depend_on_the_seed() -> None:
    first, other = load_dataset("digits", seed=1), load_dataset("digits", seed=2)
    assert np.array_equal(first.test.images, other.test.images)
    parts = [
        {image.tobytes() for image in split.images}
        for split in (first.train, first.validation, first.test)
    ]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


# `auto`


def test_auto_uses_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npz(tmp_path / "mine.npz")
    monkeypatch.setenv("KERAS_DIGITNET_DATA", str(path))
    dataset = load_dataset("auto")
    assert (dataset.name, dataset.source) == ("mine", str(path))
    monkeypatch.setenv("KERAS_DIGITNET_DATA", str(tmp_path / "gone"))
    with pytest.raises(DigitNetError, match="KERAS_DIGITNET_DATA: expected a file or folder"):
        load_dataset("auto")
    monkeypatch.chdir(tmp_path)
    save_class_folders(tmp_path / "mnist", "ab")  # a folder, not the data set of that name
    monkeypatch.setenv("KERAS_DIGITNET_DATA", "mnist")
    assert load_dataset("auto").classes == ("a", "b")


def test_mnist_is_the_file_in_the_environment_if_it_has_the_published_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npz(tmp_path / "mine.npz")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("KERAS_DIGITNET_DATA", str(path))
    assert not is_available_offline("mnist")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("keras_digitnet.data.named._MNIST_SHA256", digest)
    assert is_available_offline("mnist")
    assert load_dataset("mnist").source == "mnist"


def test_auto_uses_the_cache_of_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_DIGITNET_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    save_npz(tmp_path / "datasets" / "mnist.npz")
    assert (load_dataset("auto").name, load_dataset("mnist").source) == ("mnist", "mnist")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local server instead of the one that publishes the data; an empty Keras cache."""
    root = tmp_path / "published"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.endswith("garbage.npz"):
                self.wfile.write(b"no HTTP at all")
                return None
            if not self.path.endswith("slow.npz"):
                return super().do_GET()
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    self.wfile.write(b"drop")
                    self.wfile.flush()
                    time.sleep(0.05)
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(downloads, "KERAS_DATASETS", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("KERAS_DIGITNET_DATA", raising=False)
    yield root
    server.shutdown()
    server.server_close()


def test_mnist_is_downloaded_once_and_checked(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npz(published / "mnist.npz")
    with pytest.raises(DigitNetError, match="sha256 [0-9a-f]+, not "):
        load_dataset("mnist")
    assert not list(published.parent.glob("keras/**/*.npz"))  # a file with a wrong hash is deleted
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(named, "_MNIST_SHA256", right)
    first = load_dataset("mnist")
    path.unlink()
    assert load_dataset("auto").fingerprint() == first.fingerprint()


def test_fashion_mnist_is_downloaded_with_its_names(
    published: Path, monkeypatch: pytest.MonkeyPatch, random_images: MakeImages
) -> None:
    images, labels = random_images(100).images[..., 0], np.arange(100) % 10
    save_idx_folder(published, images, labels, suffix=".gz")
    hashes = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in published.iterdir()}
    assert hashes.keys() == named._FASHION_MNIST_MD5.keys()
    monkeypatch.setattr(named, "_FASHION_MNIST_MD5", hashes)
    dataset = load_dataset("fashion_mnist", validation_size=0.1)
    assert dataset.name == "fashion_mnist"
    assert dataset.classes[:2] == ("T-shirt/top", "Trouser")


def test_a_slow_download_ends(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(DigitNetError, match=r"received: not done in 0 s\. .*--data PATH"):
        downloads.cached("slow.npz", "sha256", "0" * 64)
    assert not list(published.parent.glob("keras/**/*slow.npz"))


@pytest.mark.usefixtures("published")
def test_a_server_without_http_counts_as_a_missing_network() -> None:
    with pytest.raises(DigitNetError, match="expected to download it"):
        downloads.cached("garbage.npz", "sha256", "0" * 64)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without a server, and an empty Keras cache."""
    monkeypatch.setattr(downloads, "KERAS_DATASETS", "http://127.0.0.1:9/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("KERAS_DIGITNET_DATA", raising=False)


@pytest.mark.usefixtures("no_network")
def test_without_a_network_auto_warns_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert load_dataset("auto").name == "digits"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert "MNIST cannot be downloaded" in warnings[0]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_without_a_network_a_named_data_set_fails(name: str) -> None:
    with pytest.raises(DigitNetError, match="expected to download it; received: .*--data PATH"):
        load_dataset(name)


# Refused data

NPZ_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no test images": (
        {"x_test": None},
        r"expected a .npz file in Keras's layout \(x_train, .*received: the arrays x_train, y_",
    ),
    "another size": (
        {"x_train": np.zeros((200, 8, 8), np.uint8)},
        r"training set: expected images of shape \(N, 28, 28\).*\(200, 8, 8\)",
    ),
    "no images": (
        {"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0, np.uint8)},
        "N at least 1",
    ),
    "fractions": (
        {"x_train": np.full((200, 28, 28), 1.5)},
        "from 0 to 255, or fractions from 0 to 1; received: fractions from 1.5 to 1.5",
    ),
    "complex numbers": (
        {"x_train": np.zeros((200, 28, 28), complex)},
        r"expected whole numbers from 0 to 255 \(uint8\); received: complex128\.",
    ),
    "NaN": (
        {"x_test": np.full((50, 28, 28), np.nan, np.float32)},
        "test set: .*received: float32 with NaN or infinity",
    ),
    "negative values": (
        {"x_train": np.full((200, 28, 28), -1)},
        "expected values from 0 to 255; received: -1 to -1",
    ),
    "fewer labels": (
        {"y_train": np.zeros(199, np.uint8)},
        r"as many labels as images \(200\); received: 199",
    ),
    "one-hot labels": (
        {"y_train": np.zeros((200, 10), np.uint8)},
        r"labels of shape \(N,\) .*received: uint8 \(200, 10\)",
    ),
    "labels of NaN": ({"y_train": np.full(200, np.nan)}, "in whole numbers; received: float64"),
    "a gap": (
        {"y_train": np.arange(200) % 2 * 5},
        r"labels out of range: .*received: 0, 5\.",
    ),
    "negative labels": ({"y_train": np.arange(200) % 10 - 1}, "labels out of range"),
    "one class": ({"y_train": np.zeros(200, np.uint8)}, "labels out of range: expected two"),
    "a test class that training lacks": (
        {"y_test": np.full(50, 200, np.uint8)},
        "the test set has classes that the training set lacks; received: 200",
    ),
    "pickled objects": ({"x_train": np.array([{}], object)}, "expected a .npz file"),
    "a class of one image": (
        {"y_train": np.array([1] + [0] * 199), "y_test": np.zeros(50, np.uint8)},
        "too few images to hold out",
    ),
}


@pytest.mark.parametrize("mistake", NPZ_MISTAKES)
def test_a_bad_npz_is_one_message_with_its_path(tmp_path: Path, mistake: str) -> None:
    arrays, message = NPZ_MISTAKES[mistake]
    path = save_npz(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DigitNetError, match=message) as caught:
        load_dataset(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_npz_is_one_message(tmp_path: Path, keep: int) -> None:
    path = save_npz(tmp_path / "cut.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DigitNetError, match=r"cut\.npz: expected a \.npz file"):
        load_dataset(str(path))


def test_a_single_array_is_not_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(DigitNetError, match=r"received: not a zip archive"):
        load_dataset(str(path))


def test_members_of_an_npz_that_are_not_arrays_are_one_message(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            file.writestr(f"{name}.npy", "no array")
    with pytest.raises(DigitNetError, match=r"text\.npz: expected a \.npz file"):
        load_dataset(str(path))


IMAGES = np.zeros((20, 28, 28), np.uint8)
IDX_MISTAKES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected an IDX file .* received: magic none"),
    "of labels": (idx(IMAGES[:, 0, 0]), "received: magic 00000801"),
    "of another type": (b"\0\0\x0d\x03" + bytes(12), "received: magic 00000d03"),
    "without its sizes": (idx(IMAGES)[:9], "the IDX header is truncated"),
    "cut": (idx(IMAGES)[:-1], r"expected 15680 bytes for shape \(20, 28, 28\); received: 15679"),
    "too long": (idx(IMAGES) + b"x", "received: more"),
    "lying about its size": (
        b"\0\0\x08\x03" + b"\xff" * 12,
        "expected .* bytes for shape",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mistake", IDX_MISTAKES)
def test_a_bad_idx_file_is_one_message_with_its_path(
    tmp_path: Path, mistake: str, suffix: str
) -> None:
    content, message = IDX_MISTAKES[mistake]
    folder = save_idx_folder(tmp_path, IMAGES, np.arange(20) % 10, suffix=suffix)
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DigitNetError, match=message) as caught:
        load_dataset(str(folder))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"plain bytes", gzip.compress(idx(IMAGES))[:-9]], ids=["plain", "truncated"]
)
def test_a_damaged_gzip_file_is_one_message(tmp_path: Path, content: bytes) -> None:
    folder = save_idx_folder(tmp_path, IMAGES, np.arange(20) % 10, suffix=".gz")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DigitNetError, match=r"train-images-idx3-ubyte\.gz: expected"):
        load_dataset(str(folder))


def test_incomplete_idx_folders_are_refused(tmp_path: Path) -> None:
    folder = save_idx_folder(tmp_path / "a", IMAGES, np.arange(20) % 10)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DigitNetError, match="expected its labels beside it"):
        load_dataset(str(folder))
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DigitNetError, match="expected train-images-idx3-ubyte; received: t10k"):
        load_dataset(str(folder))
    for prefix in ("emnist-letters-", "emnist-digits-"):
        save_idx_folder(tmp_path / "b", IMAGES, np.arange(20) % 10, prefix=prefix)
    with pytest.raises(DigitNetError, match="expected one data set; received: emnist-digits, "):
        load_dataset(str(tmp_path / "b"))


def test_real_mnist_is_what_was_published(mnist: Dataset) -> None:
    """Compares with the MD5 of the published t10k-images-idx3-ubyte."""
    assert mnist.classes == tuple("0123456789")
    content = idx(mnist.test.images[..., 0])
    assert hashlib.md5(content).hexdigest() == "2646ac647ad5339dbf082846283269ea"
