"""What runs have left behind: a list of them, and the images that each was trained on."""

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
    """One run at a glance.

    Attributes:
        run: Its folder.
        dataset: The data set's name.
        preset: The network.
        backend: What computed.
        seed: The run's.
        epochs: Those that are done.
        planned_epochs: Those that were asked for; patience may end a run before.
        finished: Whether it went to its end.
        accuracy: From 0 to 1; `None` before the first epoch's end.
        accuracy_on: `test`, or `validation` where the test images were left
            closed or the run is not finished.
        seconds: What the epochs took.
        started: In UTC.
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
    """The runs in a folder and in folders of it, best first, unfinished ones last.

    What cannot be read is left out, and a warning says so.

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
            logger.warning("Left out: %s", error)
    return sorted(found, key=lambda run: (not run.finished, -(run.accuracy or 0), run.run))


def _run_folders(top: Path) -> Iterator[RunFolder]:
    """Folders with a run's `config.json`, which exports have too, but not a run's other files."""
    for place, subfolders, names in os.walk(top):
        run = RunFolder(Path(place))
        its_own = {run.metrics_path.name, run.history_path.name}
        if run.config_path.name in names and (its_own & set(names) or len(names) == 1):
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
            f"{run.path}: expected a run's settings and figures; received: {first_line(error)}."
        ) from None


def _so_far(run: RunFolder) -> dict[str, Any]:
    """What `metrics.json` will hold, from the epochs that are done."""
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
    """The moment in the folder's name, else that of the file which is written first."""
    if match := _STARTED.search(run.path.absolute().name):
        return datetime.strptime(match[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return datetime.fromtimestamp(run.config_path.stat().st_mtime, UTC)


def load_own_dataset(models: Sequence[str]) -> "Dataset":
    """The data set that the models were trained on.

    A preset has none of its own, nor has a model that came without its run's
    `config.json`: alone they get what `auto` finds.

    Raises:
        DigitNetError: There is no such model, they were trained on different
            data sets, or theirs cannot be loaded any more.
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
                "%s: %s has changed since it was trained; what is scored here may hold images "
                "that it learned from.",
                model,
                config.data,
            )
    return dataset


def _trained_on(model: str) -> tuple[TrainConfig, str] | None:
    """What names a model's images, and their fingerprint; none where nothing tells."""
    from keras_digitnet.inference import find_model

    path = find_model(model)
    if path is None or model in PRESETS:
        return None
    try:
        saved = RunFolder(config_dir(path)).read_config()
        named = ("data", "seed", "validation_size")
        return TrainConfig(**{name: saved["train"][name] for name in named}), saved["fingerprint"]
    except (DigitNetError, KeyError, TypeError):
        return None  # somebody else's, or there is none
