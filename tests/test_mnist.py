"""Accuracy on real MNIST; skipped without it."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from environments import without_backend
from tf_serving import tf_serving
from time_limits import scaled

from keras_digitnet.artifacts import preset_dir, read_json
from keras_digitnet.config import CLASSIFIERS, TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.export import export_model
from keras_digitnet.reading.inference import load
from keras_digitnet.serving import transport
from keras_digitnet.training import Run, train


@pytest.fixture(scope="module")
def run(mnist: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        TrainConfig(preset="nano", data=mnist.source, epochs=1, warmup_epochs=0.3),
        replace(mnist, train=mnist.train[:24_000]),
        out_dir=tmp_path_factory.mktemp("runs"),
        verbose=2,
    )


@pytest.mark.backends
@pytest.mark.xdist_group("mnist")
def test_nano_reads_95_percent_after_a_short_epoch(run: Run) -> None:
    assert run.test is not None
    assert run.test.n == 10_000
    assert run.test.accuracy >= 0.95
    assert (run.folder.servable_dir / "1" / "saved_model.pb").is_file()


LABELS = """
import sys
import numpy as np
import keras_digitnet as kd
classifier = kd.load(sys.argv[1], "torch")
images = kd.load_dataset(sys.argv[2]).test.images
np.save(sys.argv[3], classifier.predict(images).labels)
"""


@pytest.mark.backends
@pytest.mark.xdist_group("mnist")
@pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "jax" or find_spec("torch") is None,
    reason="trains on JAX and reads with torch",
)
def test_a_model_trained_on_jax_agrees_on_torch_and_on_a_server(
    run: Run, mnist: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three independent programs on every test digit."""
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", scaled(120))
    with tf_serving(run.folder.servable_dir) as address:
        served = load(address).predict(mnist.test.images, batch_size=1000).labels
    arguments = [str(run.model_path), mnist.source, str(tmp_path / "labels.npy")]
    subprocess.run(
        [sys.executable, "-c", LABELS, *arguments],
        env=without_backend(),
        check=True,
    )
    in_torch = np.load(tmp_path / "labels.npy")
    assert len(served) == 10_000
    assert np.array_equal(served, in_torch)


@pytest.mark.parametrize("preset", CLASSIFIERS)
def test_a_shipped_preset_is_as_accurate_as_its_card_says(preset: str, mnist: Dataset) -> None:
    labels = load(preset_dir(preset) / "model.onnx").predict(mnist.test.images).labels
    accuracy = float((labels == mnist.test.labels).mean())
    metrics = read_json(ROOT / "saved_models" / preset / "metrics.json")
    assert accuracy == pytest.approx(metrics["test"]["accuracy"], abs=1e-9)
    assert f"{accuracy:.2%}" in (ROOT / "saved_models" / preset / "README.md").read_text()


def test_int8_costs_at_most_a_tenth_of_a_point(mnist: Dataset, tmp_path: Path) -> None:
    export_model("nano", tmp_path, ["litert_int8"])
    labels = load(tmp_path / "model_int8.tflite").predict(mnist.test.images).labels
    metrics = read_json(ROOT / "saved_models" / "nano" / "metrics.json")
    assert (labels == mnist.test.labels).mean() >= metrics["test"]["accuracy"] - 0.001
