"""The same seed gives the same run; a shipped model gives the same labels in every format."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keras_digitnet.artifacts import preset_dir
from keras_digitnet.config import CLASSIFIERS, TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.export import export_model
from keras_digitnet.formats.keras_file import load_inference_model
from keras_digitnet.reading.inference import load
from keras_digitnet.training import train

pytestmark = pytest.mark.backends


def test_the_same_seed_gives_the_same_numbers(
    tiny_config: TrainConfig, few_digits: Dataset, tmp_path: Path
) -> None:
    config = replace(tiny_config, epochs=2, test=False)
    first, again = (train(config, few_digits, out_dir=tmp_path, verbose=0) for _ in range(2))
    for row, row_again in zip(first.history, again.history, strict=True):
        assert {**row, "seconds": 0} == {**row_again, "seconds": 0}
    weights, weights_again = (
        load_inference_model(run.model_path).get_weights() for run in (first, again)
    )
    assert all(np.array_equal(a, b) for a, b in zip(weights, weights_again, strict=True))
    assert first.metrics["validation"] == again.metrics["validation"]


@pytest.fixture
def images(digits: Dataset, given_mnist: str | None) -> np.ndarray:
    """MNIST's 10,000 test digits if available."""
    return (load_dataset(given_mnist) if given_mnist else digits).test.images


@pytest.mark.fresh
@pytest.mark.parametrize(
    "preset",
    [
        name if name == "nano" else pytest.param(name, marks=pytest.mark.long)
        for name in CLASSIFIERS
    ],
)
def test_every_format_of_a_preset_gives_the_same_labels(
    preset: str, images: np.ndarray, tmp_path: Path, backend: str
) -> None:
    """All backends are compared with the same file; exports need TensorFlow only."""
    expected = load(preset_dir(preset) / "model.onnx").predict(images).labels
    forms = [preset_dir(preset) / "model.keras"]
    if backend == "tensorflow":
        shutil.copy(forms[0], tmp_path)  # without a config, exports are compared on bundled digits
        exported = export_model(tmp_path, tmp_path / "exported", ["all"])
        forms += [artifact.path for artifact in exported]
    for form in forms:
        assert np.array_equal(load(form).predict(images).labels, expected), form
