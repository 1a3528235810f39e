import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import TINY

from keras_digitnet.data import Dataset
from keras_digitnet.environment import BACKENDS
from keras_digitnet.errors import DigitNetError
from keras_digitnet.inference import load
from keras_digitnet.model import build_model, jit_compile

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


def test_the_names_of_the_classes_travel_beside_the_model(model_path: Path) -> None:
    assert load(model_path).classes == tuple("0123456789")
    config_path = model_path.with_name("config.json")
    config_path.write_text(json.dumps({"classes": list("abcdefghij")}))
    classifier = load(model_path.parent)
    assert classifier.classes == tuple("abcdefghij")
    with pytest.raises(DigitNetError, match="expected the model's 10 classes"):
        classifier.require_classes(tuple("0123456789"))
    config_path.write_text(json.dumps({"classes": ["a"]}))
    with pytest.raises(DigitNetError, match=r"config\.json: expected the 10 names"):
        load(model_path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def of_text(path: Path) -> None:
    path.write_text("no model")


def with_a_lambda(path: Path) -> None:
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    outputs = keras.layers.Lambda(lambda x: x[:, 0, :10, 0])(inputs)
    keras.Model(inputs, outputs).save(path)


def of_another_shape(path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(path)


def of_scaled_floats(path: Path) -> None:
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(layers).save(path)


@pytest.mark.parametrize(
    "spoil", [truncated, of_text, with_a_lambda, of_another_shape, of_scaled_floats]
)
def test_a_file_that_is_no_digitnet_is_one_message(
    model_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(model_path)
    with pytest.raises(DigitNetError, match=r"model\.keras: expected .*received: ") as caught:
        load(model_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DigitNetError, match="received: .*gone.keras, which does not exist"):
        load(tmp_path / "gone.keras")
    with pytest.raises(DigitNetError, match="which is neither"):
        load(tmp_path)


LOGITS = """
import sys
import keras, numpy as np
import keras_digitnet.layers
model = keras.saving.load_model(sys.argv[1])
print(keras.backend.backend())
np.save(sys.argv[3], model.predict_on_batch(np.load(sys.argv[2])))
"""


def test_a_trained_model_gives_the_same_under_every_backend(
    tmp_path: Path, digits: Dataset, backend: str
) -> None:
    if missing := [name for name in BACKENDS if find_spec(name) is None]:
        pytest.skip(f"needs every backend; not installed: {', '.join(missing)}")
    model = build_model(TINY)
    model.compile(
        keras.optimizers.AdamW(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile(),
    )
    model.fit(digits.train.images, digits.train.labels, batch_size=64, verbose=0)
    model_path = tmp_path / "model.keras"
    model.save(model_path)
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
