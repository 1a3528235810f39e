"""A network learns from trained ones, and its files do not show it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import PLAIN, TINY
from test_detector import TINY_READER

from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.networks.blocks import jit_compile
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.networks.detector import build_detector
from keras_digitnet.networks.distillation import add_teachers
from keras_digitnet.training import callbacks, resume, train


def loss(model: keras.Model, dataset: Dataset) -> float:
    """The training loss, which includes that of the teachers, of one batch, before its step."""
    model.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile(),
    )
    return float(model.train_on_batch(dataset.train.images, dataset.train.labels))


@pytest.mark.backends
def test_the_loss_is_that_of_the_labels_and_of_the_teachers(few_digits: Dataset) -> None:
    """Compared with SciPy's divergence at a temperature of 2."""
    from scipy.special import rel_entr, softmax

    student, *teachers = (build_model(PLAIN) for _ in range(3))
    images = few_digits.train.images
    logits, *taught = (model.predict(images, verbose=0) for model in (student, *teachers))
    mean = np.mean([softmax(each / 2, axis=1) for each in taught], axis=0)
    divergence = rel_entr(mean, softmax(logits / 2, axis=1)).sum(axis=1).mean()
    alone = loss(student, few_digits)
    together = loss(add_teachers(student, teachers), few_digits)
    assert together - alone == pytest.approx(2**2 * divergence, rel=1e-3)
    assert loss(add_teachers(student, [student]), few_digits) == pytest.approx(alone, rel=1e-5)


@pytest.mark.backends
def test_a_teacher_sees_the_augmented_images(few_digits: Dataset) -> None:
    """A network agrees with itself only on the same images."""
    keras.utils.set_random_seed(0)
    student = build_model(TINY)
    pair = add_teachers(student, [student])
    images = few_digits.train.images
    pair(images, training=True)
    (divergence,) = (float(keras.ops.convert_to_numpy(each)) for each in pair.losses)
    assert divergence == pytest.approx(0, abs=1e-6)
    assert np.array_equal(pair.predict(images, verbose=0), student.predict(images, verbose=0))


Saved = Callable[[str, keras.Model], Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Saves a model like that of a run on digits."""

    def save(name: str, model: keras.Model) -> Path:
        path = tmp_path / name / "model.keras"
        path.parent.mkdir()
        model.save(path)
        classes = list("0123456789")[: len(classes_of(model))]
        (path.parent / "config.json").write_text(json.dumps({"classes": classes}))
        return path

    return save


def classes_of(model: keras.Model) -> range:
    return range(model.output.shape[-1])


def test_a_taught_run_resumes_and_its_file_has_no_teacher(
    saved: Saved,
    tiny_config: TrainConfig,
    few_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teachers = [str(saved(name, build_model(PLAIN))) for name in ("first", "second")]
    config = replace(tiny_config, model=PLAIN, teacher=teachers)
    whole = train(config, few_digits, out_dir=tmp_path / "whole", verbose=0)
    saved_layers = keras.saving.load_model(whole.model_path).layers
    assert [layer.name for layer in saved_layers] == [x.name for x in build_model(PLAIN).layers]

    def crash(self: object, epoch: int, logs: object = None) -> None:
        if epoch == 1:
            raise CrashError

    with monkeypatch.context() as patched, pytest.raises(CrashError):
        patched.setattr(callbacks.Guard, "on_epoch_begin", crash)
        train(config, few_digits, out_dir=tmp_path / "dead", verbose=0)
    (run_dir,) = (tmp_path / "dead").iterdir()
    resumed = resume(run_dir, few_digits, verbose=0)
    losses: list[list[Any]] = [[row["loss"] for row in run.history] for run in (whole, resumed)]
    assert losses[0] == losses[1]


class CrashError(Exception):
    pass


def test_an_unsuitable_teacher_or_start_is_one_message(
    saved: Saved, tiny_config: TrainConfig, few_digits: Dataset, tmp_path: Path
) -> None:
    def refuse(teacher: str) -> None:
        config = replace(tiny_config, teacher=(teacher,))
        train(config, few_digits, out_dir=tmp_path / "runs", verbose=0)

    with pytest.raises(DigitNetError, match="teacher: .*received: nanno, which does not"):
        refuse("nanno")
    letters = saved("letters", build_model(replace(PLAIN, num_classes=3)))
    with pytest.raises(
        DigitNetError,
        match="teacher: .*the model's 3 classes .*received: 0, 1, 2, 3",
    ):
        refuse(str(letters))
    reader = saved("reader", build_detector(TINY_READER))
    with pytest.raises(DigitNetError, match="teacher: .*expected a classifier"):
        refuse(str(reader))
    with pytest.raises(DigitNetError, match="start: expected a model of the same network"):
        config = replace(tiny_config, start=str(letters))
        train(config, few_digits, out_dir=tmp_path / "runs", verbose=0)
    assert not list((tmp_path / "runs").glob("*"))  # no run that cannot be resumed
    with pytest.raises(DigitNetError, match="teacher: expected none for a reader; received"):
        TrainConfig(preset="reader", teacher=("base",))
    with pytest.raises(DigitNetError, match="teacher: expected a list of names or paths"):
        TrainConfig(teacher="base")  # type: ignore[arg-type]
