"""Keras's global settings do not change networks, files or answers."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import PLAIN, TINY
from test_detector import TINY_READER

import keras_digitnet as kd
from keras_digitnet import training
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.networks.classifier import build_inference_model, build_model
from keras_digitnet.networks.detector import build_detector
from keras_digitnet.training import fitting
from keras_digitnet.training.callbacks import Checkpoint

pytestmark = pytest.mark.backends

MIXED = ("mixed_bfloat16", "mixed_float16")
# A dtype policy, floatx and image_data_format that a user may have set.
OTHERS = [
    ("float64", "float32", "channels_last"),
    ("float16", "float16", "channels_first"),
    ("float32", "float64", "channels_first"),
]
NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "affine": lambda: build_model(TINY),
    "layers": lambda: build_model(replace(TINY, augmentation="layers")),
    "reader": lambda: build_detector(TINY_READER),
}


@contextmanager
def keras_set_to(
    policy: str, floatx: str = "float32", data_format: str = "channels_last"
) -> Iterator[None]:
    before = keras.config.floatx(), keras.config.image_data_format(), keras.config.dtype_policy()
    keras.config.set_floatx(floatx)
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_image_data_format(before[1])
        keras.config.set_dtype_policy(before[2])


def built(network: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return NETWORKS[network]()


def steps(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Outputs in training and inference, with a fixed seed for each random layer."""
    for variable in model.non_trainable_variables:
        if variable.name == "seed_generator_state":
            variable.assign(np.array([7, 0]))
    answers = [model(images, training=True), model(images)]
    return [keras.ops.convert_to_numpy(answer) for answer in answers]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("settings", OTHERS, ids="-".join)
def test_a_network_is_the_same_under_any_setting(
    digits: Dataset, settings: tuple[str, str, str], network: str
) -> None:
    images = digits.test.images[:8]
    model = built(network)
    expected = steps(model, images)
    with keras_set_to(*settings):
        other = built(network)
        found = steps(other, images)
    assert other.to_json() == model.to_json()
    for one, another in zip(expected, found, strict=True):
        assert another.dtype == np.float32
        assert np.allclose(one, another, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("policy", MIXED)
def test_mixed_precision_applies_between_the_images_and_the_logits(
    digits: Dataset, policy: str, network: str
) -> None:
    with keras_set_to(policy):
        model = built(network)
    computing = model.layers[1:]  # all except the input
    exact = {layer.name for layer in computing if layer.dtype_policy.name != policy}
    assert {model.get_layer(name).dtype_policy.name for name in exact} == {"float32"}
    ends = {"rescaling", "presence", "boxes", "logits", "cells"}
    if network != "reader":  # whose paper is not 0
        ends |= {"stem_full", "stem_half", "stem_norm"}
    assert exact == {
        layer.name for layer in computing if layer.name in ends or layer.name.startswith("random_")
    }
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    plain = built(network)
    plain.set_weights(model.get_weights())
    images = digits.test.images[:8]
    mixed, right = steps(model, images)[1], steps(plain, images)[1]
    assert mixed.dtype == np.float32
    assert 0 < np.abs(mixed - right).max() < 0.2


@pytest.mark.parametrize("settings", [*OTHERS, *((name,) for name in MIXED)], ids="-".join)
def test_a_file_gives_the_same_answers_under_any_setting(
    digits: Dataset, settings: tuple[str, ...]
) -> None:
    images = digits.test.images[:40]
    expected = kd.load("nano", keras.config.backend()).predict(images)
    with keras_set_to(*settings):
        found = kd.load("nano", keras.config.backend()).predict(images)
    assert np.array_equal(found.labels, expected.labels)
    assert np.allclose(found.probabilities, expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("policy", MIXED)
def test_a_network_saved_in_mixed_precision_computes_in_float32(
    digits: Dataset, tmp_path: Path, policy: str
) -> None:
    with keras_set_to(policy):
        built("affine").save(tmp_path / "model.keras")
    exact = build_inference_model(built("affine"))
    images = digits.test.images[:40]
    found = kd.load(tmp_path / "model.keras").predict(images).probabilities
    assert np.allclose(found, exact.predict(images, verbose=0), atol=1e-6)


class LossScale(keras.callbacks.Callback):
    """The loss scale of mixed_float16 in the last step."""

    at_end = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer):
            self.at_end = float(self.model.optimizer.dynamic_scale)


@pytest.mark.parametrize("settings", [*OTHERS[1:2], *((name,) for name in MIXED)], ids="-".join)
def test_training_writes_a_float32_file_and_restores_the_settings(
    tiny_config: TrainConfig, few_digits: Dataset, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    # A float16 counter stops at 2,048. Without augmentation one epoch is enough.
    config = replace(
        tiny_config,
        epochs=1,
        min_images_per_epoch=2560,
        model=PLAIN,
    )
    with keras_set_to(*settings):
        scale = LossScale()
        run = training.train(config, few_digits, out_dir=tmp_path, verbose=0, callbacks=[scale])
        assert keras.config.dtype_policy().name == settings[0]
        assert keras.config.floatx() == (settings[1] if settings[1:] else "float32")
    if settings[0] == "mixed_float16":
        # It drops from 32,768 until every gradient fits float16; below 64 small ones underflow.
        assert scale.at_end >= 64
    steps_at = 1 / 2560
    accuracy = run.history[0]["accuracy"]
    assert accuracy == pytest.approx(round(accuracy / steps_at) * steps_at, abs=1e-6)
    assert run.history[0]["loss"] < 2
    stored = keras.saving.load_model(run.model_path)
    assert {layer.dtype_policy.name for layer in stored.layers} == {"float32"}
    assert run.validation.accuracy > 0.5


def test_an_unsupported_policy_causes_a_warning(
    tiny_config: TrainConfig,
    few_digits: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(tiny_config, epochs=1, model=PLAIN)
    with keras_set_to("float64"):
        training.train(config, few_digits, out_dir=tmp_path, verbose=0)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "in float32, not in Keras's dtype policy float64" in warning.getMessage()


class CrashError(Exception):
    pass


@pytest.mark.parametrize("policy", MIXED)
def test_a_resumed_run_keeps_its_policy(
    tiny_config: TrainConfig,
    few_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
) -> None:
    config = replace(tiny_config, model=PLAIN)
    with keras_set_to(policy):
        whole = training.train(config, few_digits, out_dir=tmp_path / "whole", verbose=0)

        class Crash(Checkpoint):
            def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
                super().on_epoch_end(epoch, logs)
                raise CrashError

        with monkeypatch.context() as patched, pytest.raises(CrashError):
            patched.setattr(fitting, "Checkpoint", Crash)
            training.train(config, few_digits, out_dir=tmp_path / "dead", verbose=0)
    (run_dir,) = (tmp_path / "dead").iterdir()
    assert json.loads((run_dir / "config.json").read_text())["dtype_policy"] == policy
    resumed = training.resume(run_dir, few_digits, verbose=0)
    for row, other in zip(whole.history, resumed.history, strict=True):
        assert row["loss"] == other["loss"]
        assert row["val_loss"] == other["val_loss"]
