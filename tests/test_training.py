import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import PLAIN
from scipy.special import log_softmax

from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.inference import load
from keras_digitnet.training import Run, callbacks, fitting, resume, schedule, tasks, train
from keras_digitnet.training import run as whole_run
from keras_digitnet.training.history import best_epoch
from keras_digitnet.training.schedule import learning_rate_at
from keras_digitnet.training.tasks import batches

pytestmark = pytest.mark.backends

Train = Callable[..., Run]


@pytest.fixture(scope="module")
def config(tiny_config: TrainConfig) -> TrainConfig:
    return replace(tiny_config, model=PLAIN)


@pytest.fixture
def trained(config: TrainConfig, few_digits: Dataset, tmp_path: Path) -> Train:
    def run(out_dir: str = "runs", **changes: Any) -> Run:
        return train(replace(config, **changes), few_digits, out_dir=tmp_path / out_dir, verbose=0)

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


def test_the_order_of_an_epoch_depends_on_its_number(random_images: Callable[[int], Split]) -> None:
    split = Split(random_images(100).images, np.arange(100))

    def epoch(first: int, skip: int = 0) -> np.ndarray:
        stream = batches(split, batch_size=10, steps=10, seed=3, first_epoch=first)
        return np.concatenate([labels for _, labels in islice(stream, skip, skip + 10)])

    assert sorted(epoch(0)) == list(range(100))
    assert not np.array_equal(epoch(0), epoch(1))
    assert np.array_equal(epoch(0, skip=10), epoch(1))
    images, labels = next(batches(split, 10, 10, 3, 0))
    assert np.array_equal(images, split.images[labels])


@pytest.mark.backends
def test_fit_gets_the_batches_without_autotuning(
    random_images: Callable[[int], Split], backend: str
) -> None:
    split = random_images(100)
    fed = fitting.feed(batches(split, 10, 10, 3, 1), 10)
    wanted = islice(batches(split, 10, 10, 3, 1), 20)
    two_epochs = chain(islice(fed, 10), islice(fed, 10))
    for batch, other_batch in zip(two_epochs, wanted, strict=True):
        for array, other in zip(batch, other_batch, strict=True):
            assert np.array_equal(keras.ops.convert_to_numpy(array), other)
    if backend == "tensorflow":
        assert fed.options().autotune.enabled is False  # its thread would sleep after the last step


@pytest.mark.parametrize(
    ("batch_size", "steps"), [(32, 10), (64, 5), (1000, 1)], ids=lambda value: str(value)
)
def test_the_images_per_epoch_do_not_depend_on_the_batch_size(
    trained: Train, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: int
) -> None:
    asked: list[int] = []

    def ask(split: Split, batch_size: int, steps: int, *_: int) -> None:
        asked.append(steps)
        raise CrashError

    monkeypatch.setattr(tasks, "batches", ask)
    with pytest.raises(CrashError):
        trained(batch_size=batch_size)
    assert asked == [steps]


def test_a_small_data_set_is_repeated_within_an_epoch(
    random_images: Callable[[int], Split],
) -> None:
    split = Split(random_images(7).images, np.arange(7))
    labels = [labels for _, labels in islice(batches(split, 10, 5, 0, 0), 5)]
    assert np.bincount(np.concatenate(labels)).tolist().count(7) >= 5


def test_only_kernels_decay(config: TrainConfig, few_digits: Dataset) -> None:
    model = fitting.build_and_compile(config, few_digits)
    for weight in model.trainable_variables:
        weight.assign(keras.ops.ones(weight.shape))
    zeros = [keras.ops.zeros(weight.shape) for weight in model.trainable_variables]
    model.optimizer.apply(zeros)
    for weight in model.trainable_variables:
        decayed = bool(np.all(keras.ops.convert_to_numpy(weight) < 1))
        assert decayed == (weight.name == "kernel"), weight.path


def test_the_schedule_reaches_every_step(
    trained: Train, config: TrainConfig, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of 0 changes no weights, not even by decay, so a missing assignment is visible."""

    def weights_after(name: str, rates: dict[int, float]) -> list[np.ndarray]:
        """Trains one epoch of ten steps, with a rate of 0 except for those in `rates`."""
        monkeypatch.setattr(
            schedule, "learning_rate_at", lambda epoch, _: rates.get(int(epoch * 10), 0.0)
        )
        return weights(trained(name, epochs=1).model_path)[:-2]  # calibration changes the logits

    keras.utils.set_random_seed(config.seed)
    initial = fitting.build_and_compile(config, few_digits).get_weights()[:-2]
    still = weights_after("still", {})
    first = weights_after("first", {0: 0.01})
    last = weights_after("last", {9: 0.01})
    both = weights_after("both", {0: 0.01, 9: 0.01})

    def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))

    assert same(initial, still)
    assert not same(still, first)
    assert not same(still, last)
    assert not same(first, both)


# A run


def test_a_run_writes_the_documented_files(
    trained: Train, backend: str, few_digits: Dataset
) -> None:
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
    assert run._repr_png_() == run.folder.curves_path.read_bytes()  # what a notebook shows
    classifier = load(run.model_path)
    predictions = classifier.predict(few_digits.test.images)
    assert (predictions.labels == few_digits.test.labels).mean() == metrics["test"]["accuracy"]
    assert "digits" in keras.saving.load_model(run.model_path).name


def test_the_file_holds_the_last_epoch_calibrated(
    trained: Train, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch climbs the loss, so that it is not the best one."""
    monkeypatch.setattr(
        schedule, "learning_rate_at", lambda epoch, config: 0.01 if epoch < 2 else -0.01
    )
    run = trained(epochs=3)
    assert run.metrics["kept_epoch"] == 3 != best_epoch(run.history)
    temperature = run.metrics["temperature"]
    assert abs(temperature - 1) > 1e-3
    model = keras.saving.load_model(run.model_path)
    logits = model.predict(few_digits.validation.images, verbose=0)
    labels = few_digits.validation.labels

    def loss(logits: np.ndarray) -> float:
        return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())

    before = run.history[-1]["val_loss"]
    assert loss(temperature * logits) == pytest.approx(before, rel=1e-3)
    assert run.validation.loss == pytest.approx(loss(logits), rel=1e-3)
    assert loss(logits) < before


def test_the_test_evaluation_can_be_skipped(
    trained: Train, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[Split] = []
    evaluate = tasks._evaluate
    monkeypatch.setattr(
        tasks,
        "_evaluate",
        lambda classifier, split: evaluated.append(split) or evaluate(classifier, split),
    )
    run = trained(test=False)
    assert evaluated == [few_digits.validation]
    assert run.test is None
    assert run.metrics["test"] is None


def test_early_stopping_keeps_the_best_weights(trained: Train, few_digits: Dataset) -> None:
    run = trained(epochs=12, patience=1, learning_rate=0.3, warmup_epochs=0)
    assert len(run.history) < 12
    best = best_epoch(run.history)
    assert len(run.history) == best + 1
    assert run.metrics["kept_epoch"] == best
    assert run.validation.accuracy == pytest.approx(run.history[best - 1]["val_accuracy"])
    # Calibration makes the file's loss at most that of the history.
    assert run.validation.loss <= run.history[best - 1]["val_loss"] * (1 + 1e-3)


@pytest.mark.parametrize("last_good", [2.0, 1.9], ids=["in an epoch", "in an epoch's last step"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(
    trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last_good: float
) -> None:
    rate_at = learning_rate_at
    monkeypatch.setattr(
        schedule,
        "learning_rate_at",
        lambda epoch, config: rate_at(epoch, config) if epoch < last_good else float("nan"),
    )
    with pytest.raises(
        DigitNetError,
        match=rf"nan in epoch {math.ceil(last_good + 0.05)}\. .* is saved: .*model\.keras",
    ):
        trained()
    (model_path,) = (tmp_path / "runs").glob("*/model.keras")
    assert all(np.isfinite(weight).all() for weight in weights(model_path))
    monkeypatch.setattr(schedule, "learning_rate_at", lambda epoch, config: float("nan"))
    with pytest.raises(DigitNetError, match="there is no model yet"):
        trained("hopeless")


# Callbacks


class Seen(keras.callbacks.Callback):
    """Records the epochs that it is called for, their logs, and the number of steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.epochs: list[int] = []
        self.logs: list[set[str]] = []
        self.steps = 0
        self.stop_after = stop_after

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs.append(epoch)
        self.logs.append(set(logs or {}))
        self.steps = int(self.model.optimizer.iterations)
        self.model.stop_training = epoch == self.stop_after


def test_user_callbacks_are_called_and_may_stop_training(
    config: TrainConfig, few_digits: Dataset, tmp_path: Path
) -> None:
    plain = train(config, few_digits, out_dir=tmp_path, verbose=0)
    seen = Seen()
    run = train(config, few_digits, out_dir=tmp_path, verbose=0, callbacks=[seen])
    assert seen.epochs == [0, 1, 2]
    assert {"loss", "val_loss", "val_accuracy", "learning_rate"} <= seen.logs[0]
    steps = tasks.task_of(config, few_digits).steps
    assert steps % 8, "TensorFlow computes 8 steps per call"
    assert seen.steps == 3 * steps
    assert same_weights(run.model_path, plain.model_path)
    stopped = train(config, few_digits, out_dir=tmp_path, verbose=0, callbacks=Seen(1))
    assert stopped.metrics["epochs"] == 2


def test_a_resumed_run_accepts_callbacks(
    trained: Train, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def crash(self: object, epoch: int, logs: object = None) -> None:
        if epoch == 1:
            raise CrashError

    with monkeypatch.context() as patched, pytest.raises(CrashError):
        patched.setattr(callbacks.Guard, "on_epoch_begin", crash)
        trained()
    (run_dir,) = (tmp_path / "runs").iterdir()
    seen = Seen()
    resume(run_dir, few_digits, verbose=0, callbacks=[seen])
    assert seen.epochs == [1, 2]


@pytest.mark.parametrize("callbacks", [[print], "x", print, keras.callbacks.ReduceLROnPlateau()])
def test_invalid_callbacks_are_refused_before_anything_is_written(
    config: TrainConfig, tmp_path: Path, callbacks: Any
) -> None:
    with pytest.raises(DigitNetError, match="callbacks: expected a list of Keras callbacks"):
        train(config, out_dir=tmp_path / "runs", callbacks=callbacks)
    assert not (tmp_path / "runs").exists()


# Stopped and resumed


class CrashError(Exception):
    pass


@pytest.mark.parametrize("patience", [5, 1], ids=["all epochs done", "stopped early"])
def test_a_run_that_crashed_after_its_last_epoch_is_only_completed(
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
        patched.setattr(whole_run, "_save_model", crash)
        trained("dead", **changes)
    (run_dir,) = (tmp_path / "dead").iterdir()
    resumed = resume(run_dir, few_digits, verbose=0)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert same_weights(resumed.model_path, whole.model_path)


def test_a_run_resumes_only_with_its_data_set(
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
    with pytest.raises(DigitNetError, match=r"expected the run's data set, digits"):
        resume(run.folder.path, digits)
    config = json.loads(run.folder.config_path.read_text())
    run.folder.config_path.write_text(json.dumps(config | {"backend": "abacus"}))
    with pytest.raises(DigitNetError, match="expected the run's backend, abacus"):
        resume(run.folder.path, few_digits)
