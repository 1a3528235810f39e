"""Batches of pictures in data pipelines; a broken picture does not stop the job."""

import io

import numpy as np
import pytest
from PIL import Image

import keras_digitnet as kd
from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_batch_gives_one_row_per_picture_even_for_broken_ones(digits: Dataset) -> None:
    images = digits.test.images[:3, ..., 0]
    pair = 255 - np.kron(np.concatenate(images[:2], axis=1), np.ones((3, 3), np.uint8))
    paths = ["a.png", "b.png", "c.png", "d.png"]
    batch = {"path": np.array(paths), "bytes": [png(pair), b"no", None, float("nan")]}
    answers = kd.BatchReader()(batch)
    assert set(answers) == {"path", "text", "confidence", "error"}
    assert answers["path"].tolist() == paths
    assert answers["text"].tolist() == [kd.read(pair).text, "", "", ""]
    assert answers["confidence"].dtype == np.float32
    assert answers["confidence"][0] > 0
    assert answers["confidence"][1:].tolist() == [0, 0, 0]
    assert answers["error"][0] == ""
    assert all(
        error.startswith(name) for error, name in zip(answers["error"][1:], "bcd", strict=True)
    )


def test_batches_of_single_digits_are_labels(digits: Dataset) -> None:
    images = digits.test.images[:4, ..., 0]
    reader = kd.BatchReader("nano", one_digit=True)
    answers = reader({"path": list("abcd"), "bytes": [png(image) for image in images]})
    assert answers["label"].tolist() == [
        str(label) for label in kd.load("nano").predict(images[..., None]).labels
    ]
    assert reader({"path": [], "bytes": []})["label"].shape == (0,)


def test_a_missing_model_is_reported_before_the_first_batch() -> None:
    with pytest.raises(DigitNetError, match="nowhere"):
        kd.BatchReader("nowhere")


def test_pandas_frames_are_accepted(digits: Dataset) -> None:
    """As Spark's `mapInPandas` and pandas UDFs do."""
    pandas = pytest.importorskip("pandas")
    contents = [*map(png, digits.test.images[:3, ..., 0]), b"no"]
    frame = pandas.DataFrame({"path": list("abcd"), "bytes": contents})
    reader = kd.BatchReader("nano", one_digit=True)
    answers = pandas.DataFrame(reader(frame))
    assert answers.columns.tolist() == ["path", "label", "confidence", "error"]
    assert answers["path"].tolist() == list("abcd")
    assert (answers["error"] != "").tolist() == [False, False, False, True]
    assert answers.equals(
        pandas.DataFrame(reader(frame.iloc[::-1])).iloc[::-1].reset_index(drop=True)
    )
