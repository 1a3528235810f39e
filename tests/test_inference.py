import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from keras_digitnet import environment
from keras_digitnet.data import Dataset
from keras_digitnet.environment import BACKENDS
from keras_digitnet.errors import DigitNetError
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.reading.answers import predict_files
from keras_digitnet.reading.inference import average, find_model, load

pytestmark = pytest.mark.backends


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    build_model(TINY).save(path)
    return path


def test_probabilities_of_any_number_of_images(model_path: Path, digits: Dataset) -> None:
    classifier = load(model_path)
    images = digits.test.images[:21]
    whole = classifier.predict(images)
    assert whole.probabilities.shape == (21, 10)
    assert np.allclose(whole.probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(whole.labels, whole.probabilities.argmax(axis=1))
    in_batches = classifier.predict(images[..., 0], batch_size=8)
    assert np.allclose(in_batches.probabilities, whole.probabilities, atol=1e-6)
    nothing = classifier.predict(images[:0])
    assert (nothing.labels.shape, nothing.probabilities.shape) == ((0,), (0, 10))


def test_a_batch_size_below_one_is_refused(model_path: Path) -> None:
    with pytest.raises(DigitNetError, match="batch_size: expected 1 or more; received: -1"):
        load(model_path).predict(np.zeros((2, 28, 28), np.uint8), batch_size=-1)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((28, 28), np.uint8),
        np.zeros((2, 32, 32), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((2, 28, 28), np.float32),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_other_images_are_refused(model_path: Path, images: np.ndarray) -> None:
    with pytest.raises(DigitNetError, match=r"images: expected uint8 of shape .* received: "):
        load(model_path).predict(images)


def test_class_names_are_stored_beside_the_model(model_path: Path) -> None:
    assert load(model_path).classes == tuple("0123456789")
    config_path = model_path.with_name("config.json")
    config_path.write_text(json.dumps({"classes": list("abcdefghij")}))
    classifier = load(model_path.parent)
    assert classifier.classes == tuple("abcdefghij")
    with pytest.raises(DigitNetError, match="expected the model's 10 classes"):
        classifier.require_classes(tuple("0123456789"))
    config_path.write_text(json.dumps({"name": "somebody else's"}))
    assert load(model_path).classes == tuple("0123456789")
    config_path.write_text(json.dumps({"classes": ["a"]}))
    with pytest.raises(DigitNetError, match=r"config\.json: expected the 10 names"):
        load(model_path)


def test_a_missing_model_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DigitNetError, match="received: .*gone.keras, which does not exist"):
        load(tmp_path / "gone.keras")
    with pytest.raises(DigitNetError, match="received: ~nosuchuser/x.onnx, which does not exist"):
        load("~nosuchuser/x.onnx")
    with pytest.raises(DigitNetError, match="received: .*/gone, which does not exist"):
        load(tmp_path / "gone")
    with pytest.raises(DigitNetError, match="which is none of these"):
        load(tmp_path)
    (tmp_path / "7").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DigitNetError, match="which is none of these"):
        load(tmp_path)
    with pytest.raises(DigitNetError, match="which is none of these"):
        load(tmp_path / "notes.txt")


def test_a_preset_comes_with_the_package(
    digits: Dataset, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preset runs in ONNX Runtime unless a backend is named."""
    images = digits.test.images[:50]
    in_keras = load("nano").predict(images)  # the tests set KERAS_BACKEND
    assert load("nano", backend).classes == tuple("0123456789")
    monkeypatch.setattr(environment, "REQUESTED_BACKEND", None)
    in_onnx_runtime = load("nano").predict(images)
    difference = np.abs(in_keras.probabilities - in_onnx_runtime.probabilities)
    assert 0 < difference.max() <= 1e-5
    assert np.array_equal(in_keras.labels, in_onnx_runtime.labels)


def test_a_backend_for_other_runtimes_is_refused(exported: Path) -> None:
    for where in (exported / "model.onnx", exported / "digitnet", "http://x/v1/models/digitnet"):
        with pytest.raises(DigitNetError, match="backend: expected none for .*received: jax"):
            load(where, "jax")


def test_the_newest_version_is_loaded(exported: Path, tmp_path: Path) -> None:
    for version in ("9", "10"):
        shutil.copytree(exported / "digitnet" / "1", tmp_path / "digitnet" / version)
    (tmp_path / "digitnet" / "10" / "assets.extra" / "config.json").write_text(
        json.dumps({"classes": list("abcdefghij")})
    )
    assert load(tmp_path / "digitnet").classes == tuple("abcdefghij")
    assert load(tmp_path / "digitnet" / "9").classes == tuple("0123456789")


def test_a_model_without_names_gets_numbers(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "model.onnx", tmp_path)
    classifier = load(tmp_path / "model.onnx")
    assert classifier.classes == tuple("0123456789")
    classifier.require_classes(tuple("abcdefghij"))
    with pytest.raises(DigitNetError, match="expected the model's 10 classes"):
        classifier.require_classes(tuple("abc"))


def test_a_folder_of_exports_can_be_loaded_like_a_run(exported: Path, tmp_path: Path) -> None:
    """The first of the formats in the folder, in the order of the table."""
    folder = tmp_path / "exports"
    shutil.copytree(exported, folder)
    for name in ("model.onnx", "digitnet/1", "model.tflite", "model.xml", "model_int8.tflite"):
        path = folder / name
        assert find_model(folder) == path
        assert load(folder).named
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with pytest.raises(DigitNetError, match="exports, which is none of these"):
        load(folder)
    (folder / "digitnet" / "1").mkdir()  # an unfinished version
    with pytest.raises(DigitNetError, match="exports, which is none of these"):
        load(folder)


def test_an_ensemble_averages_its_members(
    model_path: Path, exported: Path, digits: Dataset, tmp_path: Path
) -> None:
    members = [load(exported / "model.onnx"), load(model_path)]
    images = digits.test.images[:30]
    received = average(members).predict(images, batch_size=7)
    expected = np.mean([member.predict(images).probabilities for member in members], axis=0)
    assert np.allclose(received.probabilities, expected, atol=1e-6)
    assert np.array_equal(received.labels, expected.argmax(axis=1))
    assert average(members[1:]) is members[1]  # still without class names
    unnamed = average([members[1], load(model_path)])
    unnamed.require_classes(tuple("abcdefghij"))
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(exported / "model.onnx", other)
    (other / "config.json").write_text(json.dumps({"classes": list("abcdefghij")}))
    with pytest.raises(DigitNetError, match="expected the model's 10 classes"):
        average([members[0], load(other / "model.onnx")])
    with pytest.raises(DigitNetError, match="expected one or more; received: none"):
        average([])


def test_pictures_are_read_in_order_and_a_broken_one_does_not_stop_them(
    exported: Path, tmp_path: Path, digits: Dataset
) -> None:
    images = digits.test.images[:5, ..., 0]
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_text("no picture")
    classifier = load(exported / "model.onnx")
    paths = [str(tmp_path / f"{index}.png") for index in range(5)]
    answers = list(predict_files(classifier, paths, batch_size=2))
    assert [answer.path for answer in answers] == paths
    assert "2.png: expected an image" in answers[2].error
    expected = classifier.predict(images)
    for index in (0, 1, 3, 4):
        assert answers[index].label == str(expected.labels[index])
        assert answers[index].confidence == pytest.approx(expected.probabilities[index].max())


LOGITS = """
import sys
import keras, numpy as np
import keras_digitnet.layers
model = keras.saving.load_model(sys.argv[1])
print(keras.backend.backend())
np.save(sys.argv[3], model.predict_on_batch(np.load(sys.argv[2])))
"""


def test_a_trained_model_gives_the_same_under_every_backend(
    trained: Path, tmp_path: Path, digits: Dataset, backend: str
) -> None:
    if backend != "tensorflow":
        pytest.skip("the tests on TensorFlow compare every backend")
    if missing := [name for name in BACKENDS if find_spec(name) is None]:
        pytest.skip(f"needs every backend; not installed: {', '.join(missing)}")
    model_path = trained / "model.keras"
    images = digits.test.images
    np.save(tmp_path / "images.npy", images)
    expected = keras.saving.load_model(model_path).predict_on_batch(images)
    for other in set(BACKENDS) - {backend}:
        arguments = [str(model_path), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
        child = subprocess.run(
            [sys.executable, "-c", LOGITS, *arguments],
            env=os.environ | {"KERAS_BACKEND": other},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert child.stdout.strip() == other
        logits = np.load(tmp_path / "logits.npy")
        assert np.abs(logits - expected).max() < 1e-4
        assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
