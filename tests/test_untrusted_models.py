"""Untrusted `.keras` files: no code is executed, and memory is limited."""

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import pytest
from conftest import TINY
from test_runtimes import refused, rewrite

from keras_digitnet.artifacts import MAX_UNPACKED
from keras_digitnet.networks.classifier import build_model


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    build_model(TINY).save(path)
    return path


def config_of(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.backends
def test_a_lambda_layer_is_not_executed(model_path: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    program = str(proof)
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    layer = keras.layers.Lambda(
        lambda x: (__import__("pathlib").Path(program).touch(), x[:, 0, :10, 0])[1]
    )
    keras.Model(inputs, layer(inputs)).save(model_path)
    proof.unlink()
    refused(model_path, "received: a Lambda layer, which holds code")
    assert not proof.exists()


@pytest.mark.backends
def test_a_foreign_class_is_not_imported(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("import keras\nclass Evil(keras.layers.Layer): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(model_path) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1] |= {
        "module": "evil",
        "class_name": "Evil",
        "registered_name": "Evil",
    }
    rewrite(model_path, "config.json", json.dumps(config).encode())
    refused(model_path, "received: the class evil.Evil, which is neither Keras's nor ours")
    assert "evil" not in sys.modules


def a_large_member(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("assets/zeros", "w") as member,
    ):
        for _ in range((MAX_UNPACKED >> 20) + 1):
            member.write(bytes(1 << 20))


def a_large_array(path: Path) -> None:
    weights = path.with_name("weights.h5")
    with h5py.File(weights, "w") as file:
        file.create_dataset("zeros", (MAX_UNPACKED // 4 + 1,), "float32", compression="gzip")
    rewrite(path, "model.weights.h5", weights.read_bytes())


def a_large_config(path: Path) -> None:
    """Each pair of brackets is parsed to an object of 20 times its size."""
    nothing = ",[]" * (MAX_UNPACKED // 60)
    rewrite(path, "config.json", (config_of(path)[:-1] + f', "x": [[]{nothing}]}}').encode())


def a_large_network(path: Path) -> None:
    """Two layers of 100,000 units: 40 GB of weights, which the file does not hold."""
    images = keras.Input((28, 28, 1), dtype="uint8")
    x = keras.layers.Flatten()(images)
    for _ in range(2):
        x = keras.layers.Dense(76)(x)
    keras.Model(images, keras.layers.Dense(10)(x)).save(path)
    rewrite(path, "config.json", re.sub(r"\b76\b", "100000", config_of(path)).encode())


@pytest.mark.backends
@pytest.mark.parametrize(
    ("grow", "message"),
    [
        (a_large_member, "an archive that unpacks to 269,"),
        (a_large_array, "an archive that unpacks to 268,435,460"),
        (a_large_config, "a config that may fill 268,"),
        (a_large_network, "a network with weights of 40,318,"),
    ],
)
def test_a_small_file_that_would_fill_the_memory(
    model_path: Path, grow: Callable[[Path], None], message: str
) -> None:
    grow(model_path)
    assert model_path.stat().st_size < 1 << 20
    refused(model_path, f"received: {message}.* bytes; at most 268,435,456 are allowed")
