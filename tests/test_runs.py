"""The list of runs, and the data set that each was trained on."""

import csv
import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from keras_digitnet.artifacts import RunFolder, read_json, write_json
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.runs import list_runs, load_own_dataset


def make_run(
    folder: Path,
    accuracy: float | None = None,
    on: str = "test",
    epochs: int = 0,
    **settings: Any,
) -> RunFolder:
    """Writes the folder of a run; an unfinished one if no accuracy is given."""
    run = RunFolder(folder)
    saved = read_json(ROOT / "saved_models" / "nano" / "config.json")
    saved["train"].update(epochs=10, **settings)
    write_json(run.config_path, {**saved, "dataset": "mine", "backend": "jax"})
    if epochs:
        with run.history_path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("epoch", "val_loss", "val_accuracy", "seconds"))
            writer.writerows(
                (epoch, 1 / epoch, 0.8 + epoch / 100, 30) for epoch in range(1, epochs + 1)
            )
    if accuracy is not None:
        scores = {"accuracy": accuracy}
        other = "validation" if on == "test" else "test"
        metrics = {on: scores, other: scores if other == "validation" else None}
        write_json(run.metrics_path, {"epochs": 10, "seconds": 90.0, **metrics})
    return run


def test_the_best_run_comes_first_and_unfinished_ones_last(tmp_path: Path) -> None:
    make_run(tmp_path / "20261101T120000Z-mine-nano-jax", 0.97, seed=7)
    make_run(tmp_path / "deeper" / "best", 0.99)
    make_run(tmp_path / "without-test", 0.98, "validation")
    make_run(tmp_path / "stopped", epochs=2)
    make_run(tmp_path / "just-started")
    found = list_runs(tmp_path)
    names = [Path(run.run).name for run in found]
    assert names == [
        "best",
        "without-test",
        "20261101T120000Z-mine-nano-jax",
        "stopped",
        "just-started",
    ]
    seventh, stopped, started = found[2:]
    assert seventh.to_json() == {
        "run": str(tmp_path / "20261101T120000Z-mine-nano-jax"),
        "dataset": "mine",
        "preset": "nano",
        "backend": "jax",
        "seed": 7,
        "epochs": 10,
        "planned_epochs": 10,
        "finished": True,
        "accuracy": 0.97,
        "accuracy_on": "test",
        "minutes": 1.5,
        "date": "2026-11-01T12:00:00+00:00",
    }
    assert [run.accuracy_on for run in found[:2]] == ["test", "validation"]
    assert (stopped.finished, stopped.epochs, stopped.seconds) == (False, 2, 60)
    assert stopped.accuracy == pytest.approx(0.82)
    assert abs((stopped.started - datetime.now(UTC)).total_seconds()) < 600
    assert (started.finished, started.epochs, started.accuracy) == (False, 0, None)


def test_exports_and_parts_of_a_run_are_not_runs(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "exports")
    run = make_run(tmp_path / "run", 0.9)
    shutil.copytree(exported / "digitnet", run.servable_dir)
    assert [summary.run for summary in list_runs(tmp_path)] == [str(run.path)]
    assert [summary.run for summary in list_runs(run.path)] == [str(run.path)]


@pytest.mark.parametrize("content", ["", "{}", '{"test": 5}', '{"test": {"accuracy": "x"}}'])
def test_a_damaged_run_is_named_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    make_run(tmp_path / "good", 0.9)
    make_run(tmp_path / "damaged", 0.9).metrics_path.write_text(content)
    with caplog.at_level(logging.WARNING, "keras_digitnet"):
        assert [Path(run.run).name for run in list_runs(tmp_path)] == ["good"]
    assert "Skipped: " in caplog.text
    assert "damaged" in caplog.text


def test_a_missing_folder_is_one_message(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(DigitNetError, match="expected a folder with runs; received: no such"):
        list_runs(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DigitNetError, match="expected a folder with runs; received: a file"):
        list_runs(tmp_path / "file")


# The images that a model was trained on


@pytest.fixture
def own_run(digits: Dataset, tmp_path: Path) -> Path:
    """Writes a run with its own data set, without training."""
    data = tmp_path / "mine.npz"
    arrays = {
        "x_train": digits.train.images[:100, ..., 0],
        "y_train": digits.train.labels[:100],
        "x_test": digits.test.images[:50, ..., 0],
        "y_test": digits.test.labels[:50],
    }
    np.savez(data, **arrays)
    dataset = load_dataset(str(data), seed=3, validation_size=0.2)
    run = make_run(tmp_path / "run", 0.9, data=str(data), seed=3, validation_size=0.2)
    write_json(run.config_path, {**run.read_config(), "fingerprint": dataset.fingerprint()})
    shutil.copy(ROOT / "saved_models" / "nano" / "model.keras", run.model_path)
    return run.path


def test_a_run_is_scored_on_its_own_images(
    own_run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_DIGITNET_DATA", "/nowhere")
    for models in ([str(own_run)], [str(own_run / "model.keras")], ["base", str(own_run)]):
        dataset = load_own_dataset(models)
        assert (dataset.name, len(dataset.test)) == ("mine", 50)
    assert caplog.text == ""


def test_images_that_have_changed_cause_a_warning(
    own_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.loads((own_run / "config.json").read_text())
    write_json(own_run / "config.json", {**config, "fingerprint": "another"})
    load_own_dataset([str(own_run)])
    assert "mine.npz has changed since training" in caplog.text


def test_missing_images_are_named(own_run: Path) -> None:
    (own_run.parent / "mine.npz").unlink()
    with pytest.raises(DigitNetError, match=r"run: expected the images that it was trained on; .*"):
        load_own_dataset([str(own_run)])


def test_models_of_several_data_sets_need_one_to_be_named(own_run: Path, trained: Path) -> None:
    with pytest.raises(DigitNetError, match=r"--data: expected one data set; .*run on .*mine\.npz"):
        load_own_dataset([str(own_run), str(trained)])


def test_a_preset_and_a_model_without_a_config_have_no_data_set(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_DIGITNET_DATA", "/nowhere")
    (tmp_path / "bare").mkdir()
    shutil.copy(trained / "model.keras", tmp_path / "bare")
    for model in ("base", str(tmp_path / "bare" / "model.keras")):
        with pytest.raises(DigitNetError, match="KERAS_DIGITNET_DATA"):  # used by `auto`
            load_own_dataset([model])
