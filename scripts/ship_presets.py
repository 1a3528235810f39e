"""Copies the trained presets into saved_models/, which is part of the package.

    python scripts/verify_accuracy.py --write
    python scripts/ship_presets.py [--preset base]
    python scripts/ship_presets.py --reader runs/RUN

The shipped model is always that of seed 0; the other seeds show the spread.
"""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from verify_accuracy import RECIPES, RESULTS_DIR, RUNS_DIR, find_run, same_settings, settings

from keras_digitnet.artifacts import RunFolder, read_json, write_json
from keras_digitnet.config import CLASSIFIERS
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.environment import select_backend

ROOT = Path(__file__).parents[1]
SHIPPED_SEED = 0
# The training runs before a reader's run, and how its card describes them.
BEFORE = (
    "--epochs 40",
    "--epochs 8 --learning-rate 0.001 --start RUN",
    "--epochs 48 --learning-rate 0.0015 --start RUN  # stopped in its 8th epoch",
    "--epochs 32 --learning-rate 0.0015 --start RUN",
    "--epochs 50 --learning-rate 0.0015 --start RUN  # stopped in its 28th epoch",
    "--epochs 13 --learning-rate 0.0007 --start RUN",
    "--epochs 14 --learning-rate 0.001 --start RUN",
    "--epochs 60 --learning-rate 0.0015 --start RUN  # stopped in its 16th epoch",
    "--epochs 30 --learning-rate 0.0012 --start RUN",
    "--epochs 60 --learning-rate 0.0012 --start RUN  # with four more blocks",
)
EARLIER = (
    "Several runs, each started from the best model of the one before, on pages that were\n"
    "improved in between, so no single command reproduces these weights. Before the last but\n"
    "one, four blocks were added, and the presence layer, which repeated calibration had\n"
    "magnified, was fitted anew by ridge regression on the last features. The last ran on an\n"
    "NVIDIA H100 with torch 2.11.0, Keras 3.15.1 and NumPy 2.5.2; it was calibrated on a CPU\n"
    "with the versions below. Its settings: "
)
TAUGHT = "It also learns the probabilities of the shipped [base](../base/README.md). "
AUGMENTATIONS = ("rotation", "shift", "zoom", "shear", "elastic", "pen", "degradation")
CARD = (ROOT / "scripts" / "model_card.md").read_text()
READER_CARD = (ROOT / "scripts" / "reader_card.md").read_text()


@dataclass(frozen=True)
class Trained:
    """The shipped run of a preset, and the accuracy of every seed."""

    preset: str
    run: RunFolder
    accuracies: dict[str, float]

    @property
    def metrics(self) -> dict[str, Any]:
        """The run's `metrics.json` with the accuracy of every seed."""
        metrics: dict[str, Any] = read_json(self.run.metrics_path)
        return {**metrics, "test_accuracy_by_seed": self.accuracies}


def main(
    runs: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of the runs.")] = RUNS_DIR,
    presets: Annotated[
        list[str] | None,
        typer.Option("--preset", help="A classifier; may be repeated. Default: all."),
    ] = None,
    reader: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Ship only this run of the reader.")
    ] = None,
) -> None:
    """Replaces the models in saved_models/ and their pictures in scripts/results/."""
    select_backend("tensorflow")
    if reader:
        _ship_reader(RunFolder(reader))
        return
    mnist = load_dataset("mnist")
    for preset in presets or CLASSIFIERS:
        trained = _find(runs, preset, mnist)
        _ship(trained)
        if preset == "base":
            run = trained.run
            for path in (run.curves_path, run.confusion_matrix_path, run.mistakes_path):
                shutil.copy(path, RESULTS_DIR / f"base-{path.name.replace('_', '-')}")


def _find(runs: Path, preset: str, mnist: Dataset) -> Trained:
    config = settings(preset, SHIPPED_SEED, mnist, "shipped")
    run = find_run(config, runs)
    if run is None or not run.metrics_path.is_file():
        raise typer.BadParameter(
            f"{runs}: expected the finished run of {preset}, seed {SHIPPED_SEED}, on mnist; "
            f"delete {RESULTS_DIR}/{preset}-shipped-{SHIPPED_SEED}.json and run verify_accuracy.py"
        )
    paths = sorted(RESULTS_DIR.glob(f"{preset}-shipped-[0-9]*.json"))
    results = [read_json(path) for path in paths]
    accuracies = {
        str(result["seed"]): result["accuracy"]
        for result in results
        if same_settings({**result["train"], "seed": SHIPPED_SEED}, config)
    }
    return Trained(preset, run, accuracies)


def _spread(accuracies: dict[str, float]) -> str:
    """The seeds, and the mean and standard deviation of their accuracy."""
    if len(accuracies) < 2:
        return "Only this seed was trained"
    mean, deviation = statistics.mean(accuracies.values()), statistics.stdev(accuracies.values())
    return f"Over the seeds {', '.join(accuracies)}: {mean:.3%} ± {deviation * 100:.2f}"


def _ship(trained: Trained) -> None:
    formats = ("onnx", "saved_model") if trained.preset == "base" else ("onnx",)
    _replace(trained.preset, trained.run, trained.metrics, _card(trained), formats)


def _ship_reader(run: RunFolder) -> None:
    config, metrics = read_json(run.config_path), read_json(run.metrics_path)
    if (config["train"]["preset"], config["train"]["seed"]) != ("reader", SHIPPED_SEED):
        raise typer.BadParameter(f"{run.path}: expected a run of reader with seed {SHIPPED_SEED}")
    _replace("reader", run, metrics, _reader_card(config["train"], metrics), ("onnx",))
    for path in (run.curves_path, run.pages_path, run.mistakes_path):
        shutil.copy(path, RESULTS_DIR / f"reader-{path.name}")


def _replace(
    preset: str, run: RunFolder, metrics: dict[str, Any], card: str, formats: Sequence[str]
) -> None:
    from keras_digitnet.export import export_model

    target = ROOT / "saved_models" / preset
    fresh = target.with_name(f".{preset}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copy(run.model_path, fresh / "model.keras")
    shutil.copy(run.config_path, fresh / "config.json")
    write_json(fresh / "metrics.json", metrics)
    (fresh / "README.md").write_text(card)
    export_model(fresh, fresh, formats)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _options(preset: str) -> str:
    """The options of `keras-digitnet train` that the shipped recipe sets."""
    recipe = RECIPES["shipped"][preset]
    teachers = "".join(f" --teacher {teacher}" for teacher in recipe.get("teacher", ()))
    return f" --epochs {recipe['epochs']}{teachers}"


def _reader_card(train: dict[str, Any], metrics: dict[str, Any]) -> str:
    rows, columns = train["model"]["page"]
    command = f"    keras-digitnet train --preset reader --seed {train['seed']} --data mnist"
    last = (
        f"--backend {metrics['backend']} --epochs {train['epochs']} "
        f"--batch-size {train['batch_size']} --learning-rate {train['learning_rate']:g}"
    )
    stages = [*BEFORE, f"{last} --start RUN"] if train["start"] else [last]
    commands = "\n".join(f"{command} {stage}" for stage in stages)
    started = EARLIER if train["start"] else ""
    shown = ("epochs", "batch_size", "learning_rate", "warmup_epochs", "weight_decay", "seed")
    return READER_CARD.format(
        **{key: train[key] for key in shown},
        commands=commands,
        started=started,
        parameters=metrics["parameters"],
        rows=rows,
        columns=columns,
        pages=train["model"]["pages"],
        temperature=metrics["temperature"],
        backend=f"{metrics['backend']} {metrics['versions'][metrics['backend']]}",
        keras=f"Keras {metrics['versions']['keras']}",
        numpy=metrics["versions"]["numpy"],
        lines=metrics["test"]["n"],
        accuracy=metrics["test"]["accuracy"],
        errors=metrics["test"]["character_error_rate"],
        precision=metrics["test"]["precision"],
        recall=metrics["test"]["recall"],
    )


def _card(trained: Trained) -> str:
    metrics = trained.metrics
    config = read_json(trained.run.config_path)["train"]
    pairs = [
        f"{' and '.join(pair['classes'])} ({pair['count']})"
        for pair in metrics["test"]["most_confused"][:3]
    ]
    servable = "| `digitnet/1/` | the same as a SavedModel for TF Serving |\n"
    return CARD.format(
        **{key: config[key] for key in ("epochs", "batch_size", "learning_rate", "weight_decay")},
        **{key: config["model"][key] for key in AUGMENTATIONS},
        temperature=metrics["temperature"],
        preset=trained.preset,
        options=_options(trained.preset),
        taught=TAUGHT if config["teacher"] else "",
        seed=SHIPPED_SEED,
        warmup_epochs=config["warmup_epochs"],
        parameters=metrics["parameters"],
        backend=f"TensorFlow {metrics['versions']['tensorflow']}",
        keras=f"Keras {metrics['versions']['keras']}",
        numpy=metrics["versions"]["numpy"],
        held_back=metrics["validation"]["n"],
        accuracy=metrics["test"]["accuracy"],
        wrong=round((1 - metrics["test"]["accuracy"]) * metrics["test"]["n"]),
        calibration=metrics["test"]["expected_calibration_error"],
        spread=_spread(trained.accuracies),
        confused=", ".join(pairs),
        servable=servable if trained.preset == "base" else "",
    )


if __name__ == "__main__":
    typer.run(main)
