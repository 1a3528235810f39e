"""Lists runs, and loads the data set that a model was trained on."""

import csv
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_digitnet.artifacts import RunFolder, config_dir, expanded, read_json
from keras_digitnet.config import PRESETS, TrainConfig
from keras_digitnet.errors import DigitNetError, first_line

if TYPE_CHECKING:
    from keras_digitnet.data import Dataset

logger = logging.getLogger(__name__)

_STARTED = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True)
class RunSummary:
    """A summary of one run.

    Attributes:
        run: The run's folder.
        dataset: Name of the data set.
        preset: Name of the preset.
        backend: Name of the backend.
        seed: The run's seed.
        epochs: Number of completed epochs.
        planned_epochs: Number of epochs in the settings; early stopping may end a
            run before.
        finished: Whether the run is finished.
        accuracy: From 0 to 1; `None` before the end of the first epoch.
        accuracy_on: `test`, or `validation` if the run is unfinished or was
            trained with `--no-test`.
        seconds: Total time of the epochs.
        started: Time of the start, in UTC.
    """

    run: str
    dataset: str
    preset: str
    backend: str
    seed: int
    epochs: int
    planned_epochs: int
    finished: bool
    accuracy: float | None
    accuracy_on: str
    seconds: float
    started: datetime

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON types; time in minutes, the date in ISO 8601."""
        return {
            "run": self.run,
            "dataset": self.dataset,
            "preset": self.preset,
            "backend": self.backend,
            "seed": self.seed,
            "epochs": self.epochs,
            "planned_epochs": self.planned_epochs,
            "finished": self.finished,
            "accuracy": self.accuracy,
            "accuracy_on": self.accuracy_on,
            "minutes": round(self.seconds / 60, 2),
            "date": self.started.isoformat(timespec="seconds"),
        }


def list_runs(folder: str | Path) -> list[RunSummary]:
    """Lists the runs in a folder recursively, best first, unfinished ones last.

    Runs that cannot be read are skipped with a warning.

    Raises:
        DigitNetError: There is no such folder.
    """
    top = expanded(folder)
    if not top.is_dir():
        received = "a file" if top.exists() else "no such folder"
        raise DigitNetError(
            f"{folder}: expected a folder with runs; received: {received}. "
            "Make one with: keras-digitnet train"
        )
    found = []
    for run in _run_folders(top):
        try:
            found.append(_summary(run))
        except (DigitNetError, OSError) as error:
            logger.warning("Skipped: %s", error)
    return sorted(found, key=lambda run: (not run.finished, -(run.accuracy or 0), run.run))


def _run_folders(top: Path) -> Iterator[RunFolder]:
    """Yields folders with a `config.json` and a run's other files, which exports lack."""
    for place, subfolders, names in os.walk(top):
        run = RunFolder(Path(place))
        run_files = {run.metrics_path.name, run.history_path.name}
        if run.config_path.name in names and (run_files & set(names) or len(names) == 1):
            subfolders.clear()
            yield run
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))


def _summary(run: RunFolder) -> RunSummary:
    saved = run.read_config()
    finished = run.metrics_path.is_file()
    try:
        settings = saved["train"]
        metrics = read_json(run.metrics_path) if finished else _so_far(run)
        on = "test" if metrics["test"] else "validation"
        return RunSummary(
            run=str(run.path),
            dataset=str(saved["dataset"]),
            preset=str(settings["preset"]),
            backend=str(saved["backend"]),
            seed=int(settings["seed"]),
            epochs=int(metrics["epochs"]),
            planned_epochs=int(settings["epochs"]),
            finished=finished,
            accuracy=float(metrics[on]["accuracy"]) if metrics[on] else None,
            accuracy_on=on,
            seconds=float(metrics["seconds"]),
            started=_started(run),
        )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DigitNetError(
            f"{run.path}: expected a run's settings and metrics; received: {first_line(error)}."
        ) from None


def _so_far(run: RunFolder) -> dict[str, Any]:
    """The fields of `metrics.json` so far, from the completed epochs."""
    rows = []
    if run.history_path.is_file():
        with run.history_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["val_loss"]), default=None)
    return {
        "epochs": len(rows),
        "validation": {"accuracy": best["val_accuracy"]} if best else None,
        "test": None,
        "seconds": sum(float(row["seconds"]) for row in rows),
    }


def _started(run: RunFolder) -> datetime:
    """The time in the folder's name, else that of `config.json`, which is written first."""
    if match := _STARTED.search(run.path.absolute().name):
        return datetime.strptime(match[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return datetime.fromtimestamp(run.config_path.stat().st_mtime, UTC)


def load_own_dataset(models: Sequence[str]) -> "Dataset":
    """Loads the data set that the models were trained on.

    Presets, and models without their run's `config.json`, have none of their
    own; for these alone it is `auto`.

    Raises:
        DigitNetError: There is no such model, the models were trained on
            different data sets, or the data set can no longer be loaded.
    """
    from keras_digitnet.data import load_dataset

    own = {model: found for model in models if (found := _trained_on(model))}
    if not own:
        return load_dataset()
    if len({config.data for config, _ in own.values()}) > 1:
        listed = ", ".join(f"{model} on {config.data}" for model, (config, _) in own.items())
        raise DigitNetError(
            f"--data: expected one data set; received: none, and models of several: {listed}."
        )
    for model, (config, fingerprint) in own.items():
        try:
            dataset = load_dataset(
                config.data, seed=config.seed, validation_size=config.validation_size
            )
        except DigitNetError as error:
            raise DigitNetError(
                f"{model}: expected the images that it was trained on; received: {error} "
                "Name others with --data."
            ) from None
        if dataset.fingerprint() != fingerprint:
            logger.warning(
                "%s: %s has changed since training; the test images may include images that the "
                "model was trained on.",
                model,
                config.data,
            )
    return dataset


def _trained_on(model: str) -> tuple[TrainConfig, str] | None:
    """The settings that identify a model's data set, and its fingerprint; `None` if unknown."""
    from keras_digitnet.reading.inference import find_model

    path = find_model(model)
    if path is None or model in PRESETS:
        return None
    try:
        saved = RunFolder(config_dir(path)).read_config()
        named = ("data", "seed", "validation_size")
        return TrainConfig(**{name: saved["train"][name] for name in named}), saved["fingerprint"]
    except (DigitNetError, KeyError, TypeError):
        return None  # no config.json, or another program's
