import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import TINY

from keras_digitnet import export
from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.export import export_saved_model
from keras_digitnet.model import build_inference_model, build_model

# A reader of SavedModels that knows nothing of this package: what a server is.
SERVER = """
import sys
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = serve(images=tf.constant(np.load(sys.argv[2])))
assert "keras_digitnet" not in sys.modules
np.savez(sys.argv[3], **{name: value.numpy() for name, value in answers.items()})
"""


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.keras"
    path.parent.mkdir()
    build_model(TINY).save(path)
    path.with_name("config.json").write_text('{"classes": []}')
    return path


@pytest.mark.backends
def test_a_server_gives_the_models_probabilities(
    model_path: Path, tmp_path: Path, digits: Dataset
) -> None:
    version_dir = export_saved_model(model_path, tmp_path / "digitnet")
    assert version_dir == tmp_path / "digitnet" / "1"
    images = digits.test.images[:50]
    np.save(tmp_path / "images.npy", images)
    arguments = [str(version_dir), str(tmp_path / "images.npy"), str(tmp_path / "answers.npz")]
    subprocess.run([sys.executable, "-c", SERVER, *arguments], check=True, env=dict(os.environ))
    inference = build_inference_model(keras.saving.load_model(model_path))
    expected = inference.predict_on_batch(images)
    with np.load(tmp_path / "answers.npz") as answers:
        assert answers["probabilities"].dtype == np.float32
        assert np.abs(answers["probabilities"] - expected["probabilities"]).max() <= 1e-5
        assert np.array_equal(answers["label"], expected["label"])
    assert (version_dir / "assets.extra" / "config.json").read_text() == '{"classes": []}'


def test_each_export_is_a_new_version(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "digitnet" / "7").mkdir(parents=True)
    (tmp_path / "digitnet" / "notes").mkdir()
    assert export_saved_model(model_path, tmp_path / "digitnet").name == "8"


def test_what_does_not_agree_is_not_left_behind(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison sees another model than the one that was written."""
    other = build_inference_model(build_model(replace(TINY, num_classes=10)))
    compare = export._difference_of_saved_model
    monkeypatch.setattr(export, "_difference_of_saved_model", lambda path, _: compare(path, other))
    with pytest.raises(DigitNetError, match="expected the Keras model's labels.*It was not kept"):
        export_saved_model(model_path, tmp_path / "digitnet")
    assert os.listdir(tmp_path / "digitnet") == []


@pytest.mark.backends
def test_a_failed_export_is_one_message(tmp_path: Path, backend: str) -> None:
    if backend == "tensorflow":
        pytest.skip("TensorFlow exports in its own process")
    with pytest.raises(DigitNetError, match="export in a TensorFlow process failed: .*gone"):
        export_saved_model(tmp_path / "gone.keras", tmp_path / "digitnet")
