"""Class folders: `train` and `predict` normalize alike, and skipped files are reported."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data import save_class_folders

import keras_digitnet as kd
from keras_digitnet.data import Dataset, Split, load_dataset
from keras_digitnet.errors import DigitNetError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def save_digits(folder: Path, split: Split, names: str = "0123456789") -> list[Path]:
    """Writes each image as a PNG into the folder of its class."""
    paths = []
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        class_dir = folder / names[label]
        class_dir.mkdir(parents=True, exist_ok=True)
        paths.append(class_dir / f"{number:03d}.png")
        Image.fromarray(image[..., 0]).save(paths[-1])
    return paths


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("train", "test", "valid"),
    [
        ("train", "test", "valid"),
        ("Training", "Testing", "Validation"),
        ("TRAIN", "TEST", "VAL"),
        ("tRaIn", "tEST", "vALiD"),
        ("trainingSet/trainingSet", "testSet/testSet", "validationSet"),
        ("mnist_png/training", "mnist_png/testing", "mnist_png/val"),
    ],
)
def test_splits_are_recognized_by_their_usual_names(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    digits: Dataset,
    train: str,
    test: str,
    valid: str,
) -> None:
    save_digits(tmp_path / train, digits.train[:60])
    save_digits(tmp_path / test, digits.test[:30])
    save_digits(tmp_path / valid, digits.validation[:20])
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == tuple("0123456789")
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [60, 20, 30]
    order = np.argsort(digits.test[:30].labels, kind="stable")
    assert np.array_equal(dataset.test.images, digits.test.images[:30][order])
    assert messages(caplog) == []


def test_pictures_are_normalized_as_by_predict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    """Training pictures with dark ink must be inverted as `predict` inverts them."""
    few = digits.test[:40]
    dark = Split(255 - few.images, few.labels)
    paths = save_digits(tmp_path / "train", Split(few.images, few.labels))
    paths = save_digits(tmp_path / "test", dark[:10])
    dataset = load_dataset(str(tmp_path), validation_size=0.3)
    seen = {image.tobytes() for image in dataset.test.images}
    shown = set()
    for path in paths:
        with contextlib.suppress(DigitNetError):  # the reader may find none or several
            shown.add(kd.normalize_digit(path).tobytes())
    assert shown <= seen
    assert len(shown) > 5
    assert np.median(dataset.test.images) == 0
    assert messages(caplog) == [
        f"{tmp_path}: 10 of 50 pictures were brought into MNIST's form, as predict does; "
        "10 were dark on light and are inverted."
    ]
    again = load_dataset(str(tmp_path), validation_size=0.3)
    assert again.fingerprint() == dataset.fingerprint()  # needed to resume runs


def test_class_folders_of_another_size_are_resized_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    few = digits.test[np.flatnonzero(digits.test.labels < 2)[:40]]
    for path in save_digits(tmp_path, few, "ab"):
        Image.open(path).resize((60, 40)).save(path)
    dataset = load_dataset(str(tmp_path), validation_size=0.1)
    assert dataset.train.images.shape[1:] == (28, 28, 1)
    assert len(dataset.test) == 8  # a fifth, since there is no test/
    assert messages(caplog) == [
        f"{tmp_path}: 40 of 40 pictures were brought into MNIST's form, as predict does."
    ]


def test_pictures_without_ink_stay_in_their_class_and_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (28, 28), 200).save(tmp_path / name / f"{number}.png")
    dataset = load_dataset(str(tmp_path), validation_size=0.2)
    assert (dataset.train.images == 200).all()
    (message,) = messages(caplog)
    assert f"20 pictures show no ink and are only resized; the first is {tmp_path}/a/0" in message


@pytest.mark.parametrize(
    "system_file",
    ["0/Thumbs.db", "0/desktop.ini", "__MACOSX/0/._1.png", ".DS_Store", "@eaDir/1.png"],
)
def test_files_of_operating_systems_are_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset, system_file: str
) -> None:
    save_digits(tmp_path, digits.train[:60])
    (tmp_path / system_file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / system_file).write_bytes(b"\xd0\xcf\x11\xe0")
    assert load_dataset(str(tmp_path), validation_size=0.2).classes == tuple("0123456789")
    assert messages(caplog) == []


def test_skipped_files_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    paths = save_digits(tmp_path / "train", digits.train[:60])
    paths[0].rename(paths[0].with_suffix(".jfif"))
    paths[1].rename(paths[1].with_suffix(""))
    (paths[2].parent / "x.heic").write_bytes(HEIC)
    (paths[2].parent / "x.jpg").write_bytes(HEIC)
    (paths[2].parent / "notes.txt").write_text("a note")
    for beside in ("train/loose.png", "unsorted/a.png"):
        (tmp_path / beside).parent.mkdir(exist_ok=True)
        Image.new("L", (28, 28)).save(tmp_path / beside)
    dataset = load_dataset(str(tmp_path), validation_size=0.2)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 60
    assert messages(caplog) == [
        f"{tmp_path}: skipped 3 files in class folders: 1 .txt, 1 .heic, 1 .jpg; "
        f"the first is {paths[2].parent / 'notes.txt'}.",
        f"{tmp_path}: skipped, since not in a class folder: train/loose.png, unsorted.",
    ]


def test_pictures_that_predict_would_refuse_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digits: Dataset
) -> None:
    path, *_ = save_digits(tmp_path, digits.train[:60])
    Image.fromarray(np.concatenate(digits.train.images[:4, ..., 0], axis=1)).save(path)
    load_dataset(str(tmp_path), validation_size=0.2)
    assert messages(caplog)[-1] == (
        f"{tmp_path}: 1 pictures do not show exactly one digit, so predict would refuse them; all "
        f"of their ink is used; the first is {path}."
    )


def test_links_to_folders_above_lead_nowhere(tmp_path: Path, digits: Dataset) -> None:
    paths = save_digits(tmp_path / "data", digits.train[:60])
    expected = load_dataset(str(tmp_path), validation_size=0.2).fingerprint()
    (paths[0].parent / "loop").symlink_to("..", target_is_directory=True)
    (tmp_path / "self").symlink_to(".", target_is_directory=True)
    assert load_dataset(str(tmp_path), validation_size=0.2).fingerprint() == expected


def test_every_page_of_a_tiff_is_a_picture_of_its_class(tmp_path: Path, digits: Dataset) -> None:
    for label, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        chosen = digits.train.images[digits.train.labels == label][:12, ..., 0]
        first, *others = map(Image.fromarray, chosen)
        first.save(tmp_path / name / "scan.tif", save_all=True, append_images=others)
    dataset = load_dataset(str(tmp_path), validation_size=0.2)
    assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 24


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "received: the folder is empty"),
        (["notes.txt"], r"a folder of images for each class \(0/, 1/, ...\).* files: 1 .txt \(no"),
        (["0/", "1/a.txt"], r"received: folders 0/ \(empty\), 1/ \(1 files, no picture\)"),
        (["a.png", "b.png"], r"received: files: 2 .png \(a.png, b.png\)"),
        (["train/a.png", "test/b.png"], r"folders test/ \(1 pictures\), train/ \(1 pictures\)"),
        (["digits.zip"], r"1 .zip \(digits.zip\); unpack digits.zip first"),
        (["0/a.png", "1/a.png", "2/"], "2: expected images; the folder is empty"),
        (["0/a.png", "1/a.png", "2/a.heic"], r"2: expected images; files: 1 .heic \(a.heic\)"),
        (["test/0/a.png", "test/1/a.png"], "expected train/ beside test/"),
        (["0/a.png", "1/a.png", "test/0/a.png"], "expected train/ beside test/"),
        (["train/0/a.png", "Train/0/a.png"], "expected one folder for train; received: Train, tr"),
        (["a/0/x.png", "a/1/x.png", "b/0/x.png", "b/1/x.png"], "received: 2, in a, b. Pass one"),
        (["a/x.png", "train/x.png", "test/x.png"], r"received: folders a/ \(1 pictures\), test/"),
        (
            ["0/a.png", "1/a.png", "test/a.png"],
            "test: expected class folders in it; received: none",
        ),
        (["train/0/a.png", "train/1/a.png", "test/7/a.png"], r"test/7: expected only the class f"),
    ],
)
def test_the_message_for_another_folder_lists_its_contents(
    tmp_path: Path, made: list[str], message: str
) -> None:
    for name in made:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif name.endswith(".png"):
            Image.new("L", (28, 28)).save(path)
        else:
            path.write_bytes(HEIC if name.endswith(".heic") else b"")
    with pytest.raises(DigitNetError, match=message) as caught:
        load_dataset(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    save_class_folders(tmp_path, "01")
    bad = tmp_path / "1" / "7.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DigitNetError, match=r"1/7\.png: expected an image"):
        load_dataset(str(tmp_path))
    bad.write_text("no picture")
    with pytest.raises(DigitNetError, match=r"1/7\.png: expected an image"):
        load_dataset(str(tmp_path))


def test_names_of_any_bytes_are_classes_that_can_be_printed(tmp_path: Path) -> None:
    for name in (b"\xff", b"\xfe", b"$x^$"):
        class_dir = Path(str(tmp_path), name.decode(errors="surrogateescape"))
        class_dir.mkdir()
        for number in range(6):
            Image.new("L", (28, 28), 9).save(class_dir / f"{number}.png")
    dataset = load_dataset(str(tmp_path), validation_size=0.2)
    assert dataset.classes == ("$x^$", "?", "?")
    assert sorted(dataset.test.labels.tolist()) == [0, 1, 1, 2] or len(dataset.test) == 4
