import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from keras_digitnet import training
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.inference import load
from keras_digitnet.training import Run, batches, learning_rate_at, resume, train

pytestmark = pytest.mark.backends

Train = Callable[..., Run]


@pytest.fixture
def trained(tiny_config: TrainConfig, few_digits: Dataset, tmp_path: Path) -> Train:
    def run(out_dir: str = "runs", **changes: Any) -> Run:
        config = replace(tiny_config, **changes)
        return train(config, few_digits, out_dir=tmp_path / out_dir, verbose=0)

    return run


def without_seconds(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in history]


def weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path).get_weights()


def same_weights(first: Path, second: Path) -> bool:
    pairs = zip(weights(first), weights(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# The parts


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    config = TrainConfig(epochs=10, warmup_epochs=2, learning_rate=0.1)
    rates = [learning_rate_at(epoch, config) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])
    short = TrainConfig(epochs=1, warmup_epochs=1, learning_rate=0.1)
    assert 0 < learning_rate_at(0.999, short) <= 0.1


def test_an_epochs_order_follows_from_its_number(random_images: Callable[[int], Split]) -> None:
    split = Split(random_images(100).images, np.arange(100))

    def epoch(first: int, skip: int = 0) -> np.ndarray:
        stream = batches(split, batch_size=10, steps=10, seed=3, first_epoch=first)
        return np.concatenate([labels for _, labels in islice(stream, skip, skip + 10)])

    assert sorted(epoch(0)) == list(range(100))
    assert not np.array_equal(epoch(0), epoch(1))
    assert np.array_equal(epoch(0, skip=10), epoch(1))
    images, labels = next(batches(split, 10, 10, 3, 0))
    assert np.array_equal(images, split.images[labels])


@pytest.mark.parametrize(
    ("batch_size", "steps"), [(32, 10), (64, 5), (1000, 1)], ids=lambda value: str(value)
)
def test_an_epoch_is_so_many_images_whatever_the_batch(
    trained: Train, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: int
) -> None:
    asked: list[int] = []

    def ask(split: Split, batch_size: int, steps: int, *_: int) -> None:
        asked.append(steps)
        raise CrashError

    monkeypatch.setattr(training, "batches", ask)
    with pytest.raises(CrashError):
        trained(batch_size=batch_size)
    assert asked == [steps]


def test_a_small_set_is_gone_through_until_the_steps_are_done(
    random_images: Callable[[int], Split],
) -> None:
    split = Split(random_images(7).images, np.arange(7))
    labels = [labels for _, labels in islice(batches(split, 10, 5, 0, 0), 5)]
    assert np.bincount(np.concatenate(labels)).tolist().count(7) >= 5


def test_only_kernels_decay(tiny_config: TrainConfig, few_digits: Dataset) -> None:
    model = training._build_and_compile(tiny_config, few_digits)
    for weight in model.trainable_variables:
        weight.assign(keras.ops.ones(weight.shape))
    zeros = [keras.ops.zeros(weight.shape) for weight in model.trainable_variables]
    model.optimizer.apply(zeros)
    for weight in model.trainable_variables:
        decayed = bool(np.all(keras.ops.convert_to_numpy(weight) < 1))
        assert decayed == (weight.name == "kernel"), weight.path


def test_the_schedule_reaches_every_step(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rate of 0 nothing moves, decay included; an assignment that got lost would show."""

    def weights_after(name: str, rates: dict[int, float]) -> Path:
        """One epoch of ten steps; each has a rate of 0 but those that are named."""
        monkeypatch.setattr(
            training, "learning_rate_at", lambda epoch, _: rates.get(int(epoch * 10), 0.0)
        )
        return trained(name, epochs=1).model_path

    still = weights_after("still", {})
    first = weights_after("first", {0: 0.01})
    last = weights_after("last", {9: 0.01})
    assert not same_weights(still, first)
    assert not same_weights(still, last)
    assert not same_weights(first, weights_after("both", {0: 0.01, 9: 0.01}))


# A run


def test_a_run_leaves_what_it_promises(trained: Train, backend: str, few_digits: Dataset) -> None:
    run = trained()
    names = {path.name for path in run.folder.path.iterdir()}
    assert names == {
        "config.json",
        "history.csv",
        "metrics.json",
        "model.keras",
        "curves.png",
        "confusion_matrix.png",
        "mistakes.png",
    }
    metrics = json.loads(run.folder.metrics_path.read_text())
    assert metrics == json.loads(json.dumps(run.metrics))
    assert (metrics["dataset"], metrics["backend"], metrics["epochs"]) == ("digits", backend, 3)
    assert metrics["versions"]["keras"] == keras.__version__
    with run.folder.history_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in run.history]
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    classifier = load(run.model_path)
    predictions = classifier.predict(few_digits.test.images)
    assert (predictions.labels == few_digits.test.labels).mean() == metrics["test"]["accuracy"]
    assert "digits" in keras.saving.load_model(run.model_path).name


def test_the_file_holds_the_best_epoch_calibrated(trained: Train, few_digits: Dataset) -> None:
    run = trained()
    temperature = run.metrics["temperature"]
    assert abs(temperature - 1) > 1e-3
    model = keras.saving.load_model(run.model_path)
    logits = model.predict(few_digits.validation.images, verbose=0)
    labels = few_digits.validation.labels

    def loss(logits: np.ndarray) -> float:
        return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())

    before = run.history[training.best_epoch(run.history) - 1]["val_loss"]
    assert loss(temperature * logits) == pytest.approx(before, rel=1e-3)
    assert run.validation.loss == pytest.approx(loss(logits), rel=1e-3)
    assert loss(logits) < before


def test_the_test_images_stay_closed_on_request(
    trained: Train, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Split] = []
    judge = training._judge
    monkeypatch.setattr(
        training,
        "_judge",
        lambda classifier, split: judged.append(split) or judge(classifier, split),
    )
    run = trained(test=False)
    assert judged == [few_digits.validation]
    assert run.test is None
    assert run.metrics["test"] is None


def test_the_same_seed_gives_the_same_numbers(trained: Train) -> None:
    first, again, other = trained("1"), trained("2"), trained("3", seed=1)
    assert without_seconds(first.history) == without_seconds(again.history)
    assert same_weights(first.model_path, again.model_path)
    assert without_seconds(first.history) != without_seconds(other.history)


def test_early_stopping_keeps_the_best_weights(trained: Train, few_digits: Dataset) -> None:
    run = trained(epochs=12, patience=1, learning_rate=0.3, warmup_epochs=0)
    assert len(run.history) < 12
    best = training.best_epoch(run.history)
    assert len(run.history) == best + 1
    assert run.validation.accuracy == pytest.approx(run.history[best - 1]["val_accuracy"])
    # The file's loss is after calibration, and so no higher than the history's.
    assert run.validation.loss <= run.history[best - 1]["val_loss"] * (1 + 1e-3)


@pytest.mark.parametrize("last_good", [2.0, 1.9], ids=["in an epoch", "in an epoch's last step"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(
    trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last_good: float
) -> None:
    rate_at = learning_rate_at
    monkeypatch.setattr(
        training,
        "learning_rate_at",
        lambda epoch, config: rate_at(epoch, config) if epoch < last_good else float("nan"),
    )
    with pytest.raises(
        DigitNetError,
        match=rf"nan in epoch {math.ceil(last_good + 0.05)}\. .* is kept: .*model\.keras",
    ):
        trained()
    (model_path,) = (tmp_path / "runs").glob("*/model.keras")
    assert all(np.isfinite(weight).all() for weight in weights(model_path))
    monkeypatch.setattr(training, "learning_rate_at", lambda epoch, config: float("nan"))
    with pytest.raises(DigitNetError, match="there is no model yet"):
        trained("hopeless")


# Stopped and resumed


class CrashError(Exception):
    pass


@pytest.mark.parametrize("patience", [5, 1], ids=["all epochs done", "stopped early"])
def test_a_run_that_died_after_its_last_epoch_is_only_finished(
    trained: Train,
    few_digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    patience: int,
) -> None:
    changes = {"epochs": 6, "patience": patience, "learning_rate": 0.3, "warmup_epochs": 0}
    whole = trained("whole", **changes)

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patched, pytest.raises(CrashError):
        patched.setattr(training, "_save_model", crash)
        trained("dead", **changes)
    (run_dir,) = (tmp_path / "dead").iterdir()
    resumed = resume(run_dir, few_digits, verbose=0)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_weights(resumed.model_path, whole.model_path)


def test_only_the_runs_own_images_resume_it(
    trained: Train,
    digits: Dataset,
    few_digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    run = trained()
    with pytest.raises(DigitNetError, match="expected an unfinished run; this one is finished"):
        resume(run.folder.path, few_digits)
    run.folder.metrics_path.unlink()
    with pytest.raises(DigitNetError, match=r"expected the run's own images \(digits\)"):
        resume(run.folder.path, digits)
    config = json.loads(run.folder.config_path.read_text())
    run.folder.config_path.write_text(json.dumps(config | {"backend": "abacus"}))
    with pytest.raises(DigitNetError, match="expected the run's own backend, abacus"):
        resume(run.folder.path, few_digits)


PROGRAM = """
import json, sys
from keras_digitnet import training
from keras_digitnet.config import TrainConfig
verb, where, config = sys.argv[1:]
if verb == "train":
    training.train(TrainConfig.from_json(json.loads(config)), out_dir=where, verbose=0)
else:
    training.resume(where, verbose=0)
"""


def start(verb: str, where: Path, config: TrainConfig) -> subprocess.Popen[bytes]:
    arguments = [verb, str(where), json.dumps(config.to_json())]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert child.poll() is None, "the child ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    tiny_config: TrainConfig, tmp_path: Path, backend: str
) -> None:
    """SIGKILL at moments that differ from one test run to the next."""
    config = replace(tiny_config, epochs=8, patience=8)
    whole = train(config, out_dir=tmp_path / "whole", verbose=0)
    killed_dir = tmp_path / "killed"

    def checkpoints() -> set[str]:
        return {path.name for path in killed_dir.glob("*/checkpoints/epoch-*")}

    child = start("train", killed_dir, config)
    for _ in range(2 if backend == "tensorflow" else 1):
        before = checkpoints()
        wait_for(lambda: bool(checkpoints() - before), child)  # noqa: B023
        time.sleep(random.uniform(0, 0.2))
        child.kill()
        assert child.wait() == -signal.SIGKILL, "the run was over before it could be killed"
        (run_dir,) = killed_dir.iterdir()
        child = start("resume", run_dir, config)
    assert child.wait(120) == 0
    metrics = json.loads((run_dir / "metrics.json").read_text())
    expected = json.loads(whole.folder.metrics_path.read_text())
    for key in expected.keys() - {"seconds", "versions"}:
        assert metrics[key] == expected[key]
    assert same_weights(run_dir / "model.keras", whole.model_path)
    assert not (run_dir / "checkpoints").exists()


def test_ctrl_c_keeps_the_best_model_and_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "nano", "--data", "digits", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [sys.executable, "-m", "keras_digitnet", *arguments, "--epochs", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    wait_for(lambda: bool(list(tmp_path.glob("*/checkpoints/epoch-0001*"))), child)
    child.send_signal(signal.SIGINT)
    _, messages = child.communicate(timeout=60)
    assert child.returncode == 130, messages
    assert "Traceback" not in messages
    (run_dir,) = tmp_path.iterdir()
    assert (
        f"is kept: {run_dir / 'model.keras'}. Go on with: keras-digitnet train --resume" in messages
    )
    assert load(run_dir).classes == tuple("0123456789")

    resumed = subprocess.run(
        [sys.executable, "-m", "keras_digitnet", "train", "--resume", run_dir, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    metrics = json.loads(resumed.stdout)
    assert metrics["epochs"] == 2
    assert "Epoch 1/2" not in resumed.stderr
    assert json.loads((run_dir / "metrics.json").read_text())["test"] == metrics["test"]
    assert (run_dir / "saved_model" / "digitnet" / "1" / "saved_model.pb").is_file()
