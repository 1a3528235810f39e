"""IDX files, tables and `.npz` files in all supported layouts."""

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data import idx, save_npz

from keras_digitnet.data import Dataset, Split, load_dataset
from keras_digitnet.errors import DigitNetError

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.validation), len(dataset.test)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# IDX files


@pytest.fixture
def save_idx(digits: Dataset) -> Callable[..., Path]:
    """Writes the first 300 digits as IDX files, as MNIST is published."""

    def save(folder: Path, name: str = "{}-{}-ubyte", pack: Callable[..., bytes] = bytes) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for split, part in (("train", digits.train[:200]), ("t10k", digits.test[:100])):
            contents = {"images-idx3": part.images[..., 0], "labels-idx1": part.labels}
            for what, array in contents.items():
                (folder / name.format(split, what)).write_bytes(pack(idx(array)))
        return folder

    return save


def own_folders(folder: Path) -> None:
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / path.name).write_bytes(content)


def split_folders(folder: Path) -> None:
    for path in list(folder.iterdir()):
        place = folder / ("train" if path.name.startswith("train") else "test")
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)


@pytest.mark.parametrize(
    "make",
    [
        lambda save, root: save(root / "MNIST" / "raw"),
        lambda save, root: save(root / "archive" / "mnist"),
        lambda save, root: save(root, "{}-{}-UBYTE"),
        lambda save, root: save(root, "{}-{}-ubyte.gz"),  # unpacked by a browser
        lambda save, root: save(save(root), "{}-{}-ubyte.gz", gzip.compress),
        lambda save, root: own_folders(save(root)),
        lambda save, root: split_folders(save(root)),
    ],
    ids=["torchvision", "too high", "capitals", "not packed", "both", "own folders", "by split"],
)
def test_idx_files_in_any_published_layout(
    tmp_path: Path, save_idx: Callable[..., Path], digits: Dataset, make: Callable[..., Any]
) -> None:
    make(save_idx, tmp_path)
    dataset = load_dataset(str(tmp_path))
    assert sizes(dataset) == (190, 10, 100)
    assert np.array_equal(dataset.test.images, digits.test.images[:100])
    assert dataset.name not in ("raw", "train")


def test_several_sets_in_a_folder_are_named(tmp_path: Path, save_idx: Callable[..., Path]) -> None:
    for name in ("MNIST", "KMNIST"):
        save_idx(tmp_path / name / "raw")
    with pytest.raises(DigitNetError, match=r"received: 2, in KMNIST/raw, MNIST/raw\. Pass one"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path / "KMNIST")).name == "KMNIST"
    assert load_dataset(str(tmp_path / "KMNIST/raw/train-images-idx3-ubyte")).name == "KMNIST"


def test_the_only_npz_of_a_folder(tmp_path: Path) -> None:
    save_npz(tmp_path / "mine.npz")
    assert load_dataset(str(tmp_path)).name == "mine"
    save_npz(tmp_path / "yours.npz")
    with pytest.raises(DigitNetError, match="one .npz file; received: mine.npz, yours.npz"):
        load_dataset(str(tmp_path))


def test_a_second_layout_in_a_folder_is_reported(
    tmp_path: Path, save_idx: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    save_npz(save_idx(tmp_path) / "mine.npz")
    load_dataset(str(tmp_path))
    expected = f"{tmp_path}: its IDX files are read, and its .npz files are not."
    assert expected in warnings(caplog)


@pytest.mark.parametrize("name", ["digits.zip", "digits.tar.gz", "digits.rar", "seven.png"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    received = "none of these" if name.endswith("png") else "an archive; unpack it"
    with pytest.raises(DigitNetError, match=rf"{name}: expected a .npz, .csv .*: {received}"):
        load_dataset(str(tmp_path / name))


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", closed)  # root may read any folder
    with pytest.raises(DigitNetError, match="expected to read it; received: Permission denied"):
        load_dataset(str(tmp_path))


# CSV


def table(
    split: Split,
    *,
    header: bool = True,
    label: str = "label",
    last: bool = False,
    index: bool = False,
    labels: Any = range(10),
    delimiter: str = ",",
    form: Callable[[int], Any] = int,
) -> bytes:
    """Writes a set as a CSV file."""

    def row(first: Any, label: Any, pixels: list[Any]) -> str:
        given = [] if label is None else [label]
        values = [first] * index + ([*pixels, *given] if last else [*given, *pixels])
        return delimiter.join(map(str, values))

    lines = [row("", label or None, [f"pixel{i}" for i in range(784)])] if header else []
    for number, (image, value) in enumerate(zip(split.images, split.labels, strict=True)):
        pixels = [form(pixel) for pixel in image.ravel().tolist()]
        lines.append(row(number, labels[value] if label else None, pixels))
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"header": False},
        {"label": "class", "last": True},
        {"index": True},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"form": float},
        {"labels": NAMES},
        {"labels": [f'"{name}, {name}"' for name in NAMES]},
    ],
    ids=lambda form: ",".join(form) or "kaggle",
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "packed"])
def test_csv_files(
    tmp_path: Path, digits: Dataset, form: dict[str, Any], pack: Callable[[bytes], bytes]
) -> None:
    suffix = ".csv" if pack is bytes else ".csv.gz"
    for name, part in (("mnist_train", digits.train[:100]), ("mnist_test", digits.test[:20])):
        (tmp_path / f"{name}{suffix}").write_bytes(pack(table(part, **form)))
    dataset = load_dataset(str(tmp_path), validation_size=0.1)
    assert (dataset.name, sizes(dataset)) == ("mnist", (90, 10, 20))
    assert np.array_equal(dataset.test.images, digits.test.images[:20])
    named = [str(name).strip('"') for name in form.get("labels", range(10))]
    truth = [named[label] for label in digits.test.labels[:20]]
    assert [dataset.classes[label] for label in dataset.test.labels] == truth
    alone = load_dataset(str(tmp_path / f"mnist_train{suffix}"), validation_size=0.1)
    assert alone.fingerprint() == dataset.fingerprint()


def test_kaggles_test_images_have_no_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    (tmp_path / "train.csv").write_bytes(table(digits.train[:100]))
    (tmp_path / "test.csv").write_bytes(table(digits.test[:20], label=""))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset = load_dataset(str(tmp_path), validation_size=0.2)
    assert sizes(dataset) == (64, 16, 20)
    expected = f"{tmp_path / 'test.csv'}: skipped, since it has no column called label."
    assert warnings(caplog) == [expected]


def test_emnist_as_csv_is_transposed_and_named(tmp_path: Path, digits: Dataset) -> None:
    lying = Split(digits.train.images[:100].transpose(0, 2, 1, 3), digits.train.labels[:100])
    path = tmp_path / "emnist-digits-train.csv"
    path.write_bytes(table(lying, header=False))
    mapping = "".join(f"{label} {65 + label}\n" for label in range(10))
    (tmp_path / "emnist-digits-mapping.txt").write_text(mapping)
    dataset = load_dataset(str(path), validation_size=0.1)
    assert dataset.classes == tuple("ABCDEFGHIJ")
    known = {image.tobytes() for image in digits.train.images[:100]}
    assert {image.tobytes() for image in dataset.test.images} <= known


ROW = ",1" * 783
CSV_MISTAKES = {
    "empty": ("", "received: 0 columns beside the label"),
    "of another size": ("label" + ",1" * 64 + "\n", "received: 64 columns beside the label"),
    "of file names": ("file,label\na.png,1\n", "received: 1 columns beside the label"),
    "a header alone": ("label,a" + ",b" * 783 + "\n", "received: no row"),
    "a word": (f"label,a{',b' * 783}\n0,x{ROW}\n", "in rows 1 to 1, could not convert string 'x'"),
    "a gap": (f"label,a{',b' * 783}\n0,{ROW}\n", "could not convert string ''"),
    "too much": (f"label,a{',b' * 783}\n0,300{ROW}\n", "values from 1 to 300"),
    "negative": (f"label,a{',b' * 783}\n0,-1{ROW}\n", "values from -1 to 1"),
    "a fraction": (f"label,a{',b' * 783}\n0,0.5{ROW}\n", "fractions such as 0.5; the largest"),
    "a short row": (f"label,a{',b' * 783}\n0,1,1\n", "in row 1, 3 columns, not 785"),
    "a long row": (f"0,1{ROW}\n0,1{ROW}0,1{ROW}\n", "in row 2, 1569 columns, not 785"),
    "no label": (f"0,1{ROW}\nnan,1{ROW}\n", "in row 2, no label"),
    "too much in the first row": (f"0,300{ROW}\n1,1{ROW}\n", "values from 1 to 300"),
    "a comma at the end": (f"0,1{ROW},\n1,1{ROW},\n", "received: 785 columns beside the label"),
}


@pytest.mark.parametrize("mistake", CSV_MISTAKES)
def test_a_bad_csv_file_is_one_message_with_its_path(tmp_path: Path, mistake: str) -> None:
    content, message = CSV_MISTAKES[mistake]
    path = tmp_path / "train.csv"
    path.write_text(content)
    with pytest.raises(DigitNetError, match=message) as caught:
        load_dataset(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_are_in_the_order_of_their_numbers(tmp_path: Path, digits: Dataset) -> None:
    """Some programs write pixel10 before pixel2."""
    path = tmp_path / "x.csv"
    path.write_bytes(table(digits.train[:100]))
    expected = load_dataset(str(path), validation_size=0.2).fingerprint()
    rows = [line.split(",") for line in path.read_text().splitlines()]
    order = sorted(range(785), key=lambda column: rows[0][column])
    path.write_text("\n".join(",".join(row[column] for column in order) for row in rows))
    assert load_dataset(str(path), validation_size=0.2).fingerprint() == expected


def test_a_damaged_test_table_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    (tmp_path / "train.csv").write_bytes(table(digits.train[:100]))
    (tmp_path / "test.csv").write_text("<html>")
    load_dataset(str(tmp_path), validation_size=0.2)
    assert f"{tmp_path / 'test.csv'}: skipped, since it is damaged or" in warnings(caplog)[0]


def test_several_sets_of_tables_are_named(tmp_path: Path, digits: Dataset) -> None:
    for name in ("a-train.csv", "b-train.csv"):
        (tmp_path / name).write_bytes(table(digits.train[:20]))
    with pytest.raises(DigitNetError, match=r"one data set; received: a-train.csv, b-train.csv\. "):
        load_dataset(str(tmp_path))


# Parquet


def save_parquet(
    path: Path,
    split: Split,
    form: Callable[[bytes], Any] = lambda content: {"bytes": content, "path": "a.png"},
    names: list[str] | None = None,
    columns: tuple[str, ...] = ("image", "label"),
) -> None:
    """Writes a set in Hugging Face's layout."""
    import pyarrow
    from pyarrow import parquet

    pictures = []
    for image in split.images[..., 0]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        pictures.append(form(file.getvalue()))
    values = dict(zip(columns, (pictures, split.labels.tolist()), strict=False))
    made = pyarrow.table(values)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        told = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": told})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(made, path)


def test_parquet_files_as_hugging_face_publishes_them(tmp_path: Path, digits: Dataset) -> None:
    folder = tmp_path / "mnist" / "data"
    save_parquet(folder / "train-00000-of-00002.parquet", digits.train[:60], names=NAMES)
    save_parquet(folder / "train-00001-of-00002.parquet", digits.train[60:100], names=NAMES)
    save_parquet(folder / "test-00000-of-00001.parquet", digits.test[:20], names=NAMES)
    dataset = load_dataset(str(tmp_path / "mnist"), validation_size=0.1)
    assert (dataset.name, dataset.classes, sizes(dataset)) == ("mnist", tuple(NAMES), (90, 10, 20))
    assert np.array_equal(dataset.test.images, digits.test.images[:20])


def test_parquet_files_in_a_folder_for_each_split(tmp_path: Path, digits: Dataset) -> None:
    for name, part in (("train", digits.train), ("test", digits.test), ("validation", digits.test)):
        save_parquet(tmp_path / "default" / name / "0000.parquet", part[:50], bytes)
    dataset = load_dataset(str(tmp_path))
    assert (sizes(dataset), dataset.classes) == ((50, 50, 50), tuple("0123456789"))


def test_pictures_in_parquet_are_normalized_as_by_predict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    letters = [chr(65 + label) for label in range(10)]
    dark = Split(255 - digits.train.images[:60], digits.train.labels[:60])
    save_parquet(tmp_path / "x.parquet", dark, names=letters)
    dataset = load_dataset(str(tmp_path / "x.parquet"), validation_size=0.2)
    assert np.median(dataset.train.images) == 0
    (message,) = warnings(caplog)
    assert "60 of 60 pictures" in message
    assert "60 were dark on light and are inverted" in message


def test_labels_as_floats_are_digits(tmp_path: Path, digits: Dataset) -> None:
    """The classes decide whether the reader finds the digit in a picture."""
    part = digits.train[:60]
    as_floats = Split(part.images, part.labels.astype(float))
    save_parquet(tmp_path / "ints.parquet", part, columns=("Image", "Label"))
    save_parquet(tmp_path / "floats.parquet", as_floats)
    expected, received = (
        load_dataset(str(tmp_path / f"{name}.parquet"), validation_size=0.2)
        for name in ("ints", "floats")
    )
    assert received.classes == expected.classes
    assert received.fingerprint() == expected.fingerprint()
    bad = Split(part.images, np.where(part.labels == 7, np.nan, part.labels))
    save_parquet(tmp_path / "floats.parquet", bad)
    with pytest.raises(DigitNetError, match="received: no label in row"):
        load_dataset(str(tmp_path / "floats.parquet"))


def test_a_bad_parquet_file_is_one_message_with_its_path(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "train.parquet"
    few = digits.train[:20]
    for columns, form, message in (
        (("picture", "text"), bytes, "expected a column called label"),
        (("pixels", "label"), bytes, "received: the columns pixels, label"),
        (("image", "label"), lambda _: {"bytes": None}, "row 1: expected the bytes of a picture"),
        (("image", "label"), lambda _: b"x", "row 1: expected an image; received: a file that is"),
    ):
        save_parquet(path, few, form, columns=columns)
        with pytest.raises(DigitNetError, match=message) as caught:
            load_dataset(str(tmp_path))
        assert str(path) in str(caught.value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DigitNetError, match="train.parquet: expected a Parquet file"):
        load_dataset(str(path))


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(DigitNetError, match=r"pip install 'keras_digitnet\[parquet\]'"):
        load_dataset(str(tmp_path))
