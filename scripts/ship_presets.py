"""Puts trained presets into saved_models/, which ships, and their figures into README.md.

    for preset in nano small base; do
        for seed in 0 1 2; do
            keras-digitnet train --preset $preset --seed $seed --data mnist --out runs/shipped
        done
    done
    python scripts/ship_presets.py runs/shipped

Seed 0 is what is shipped, whatever the others give; they tell the spread.
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import readme
import typer

from keras_digitnet.artifacts import RunFolder, read_json, write_json
from keras_digitnet.cli import print_table
from keras_digitnet.config import PRESETS
from keras_digitnet.environment import select_backend

ROOT = Path(__file__).parents[1]
SHIPPED_SEED = 0
COLUMNS = (
    "preset",
    "parameters",
    "test accuracy",
    "wrong of 10,000",
    "mean of the seeds",
    "calibration error",
    "training",
)

CARD = (ROOT / "scripts" / "model_card.md").read_text()


@dataclass(frozen=True)
class Trained:
    """The runs of one preset, by seed."""

    preset: str
    runs: dict[int, RunFolder]

    @property
    def shipped(self) -> RunFolder:
        return self.runs[SHIPPED_SEED]

    @property
    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = read_json(self.shipped.metrics_path)
        accuracies = {
            str(seed): read_json(run.metrics_path)["test"]["accuracy"]
            for seed, run in sorted(self.runs.items())
        }
        return {**metrics, "test_accuracy_by_seed": accuracies}


def main(
    runs: Annotated[Path, typer.Argument(metavar="DIR", help="Holds the finished runs.")],
    check: Annotated[bool, typer.Option(help="Only print the table.")] = False,
) -> None:
    """Replaces saved_models/, the pictures in scripts/results/ and the table in README.md."""
    select_backend("tensorflow")
    trained = [_find(runs, preset) for preset in PRESETS]
    rows = [_row(each) for each in trained]
    print_table("MNIST's 10,000 test digits", COLUMNS, rows)
    if check:
        return
    for each in trained:
        _ship(each)
    base = trained[-1].shipped
    for path in (base.curves_path, base.confusion_matrix_path, base.mistakes_path):
        name = f"base-{path.name.replace('_', '-')}"
        shutil.copy(path, ROOT / "scripts" / "results" / name)
    readme.write_block("results", readme.table(COLUMNS, rows))


def _find(runs: Path, preset: str) -> Trained:
    found = {}
    for path in sorted(runs.rglob("metrics.json")):
        metrics = read_json(path)
        if metrics["preset"] == preset and metrics["dataset"] == "mnist" and metrics["test"]:
            found[metrics["seed"]] = RunFolder(path.parent)
    if SHIPPED_SEED not in found:
        raise typer.BadParameter(f"{runs}: expected a finished run of {preset}, seed 0, on mnist")
    return Trained(preset, found)


def _row(trained: Trained) -> tuple[str, ...]:
    metrics = trained.metrics
    test = metrics["test"]
    return (
        f"`{trained.preset}`",
        f"{metrics['parameters']:,}",
        f"{test['accuracy']:.2%}",
        str(_wrong(test)),
        _spread(metrics),
        f"{test['expected_calibration_error']:.2%}",
        f"{metrics['seconds'] / 60:.1f} min",
    )


def _wrong(test: dict[str, Any]) -> int:
    return round((1 - test["accuracy"]) * test["n"])


def _spread(metrics: dict[str, Any]) -> str:
    values = list(metrics["test_accuracy_by_seed"].values())
    if len(values) < 2:
        return "one seed only"
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.2%} ± {deviation * 100:.2f} ({len(values)} seeds)"


def _ship(trained: Trained) -> None:
    from keras_digitnet.export import export_model

    target = ROOT / "saved_models" / trained.preset
    fresh = target.with_name(f".{trained.preset}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copy(trained.shipped.model_path, fresh / "model.keras")
    shutil.copy(trained.shipped.config_path, fresh / "config.json")
    write_json(fresh / "metrics.json", trained.metrics)
    (fresh / "README.md").write_text(_card(trained))
    formats = ("onnx", "saved_model") if trained.preset == "base" else ("onnx",)
    export_model(fresh, fresh, formats)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _card(trained: Trained) -> str:
    metrics = trained.metrics
    config = read_json(trained.shipped.config_path)["train"]
    pairs = [
        f"{' and '.join(pair['classes'])} ({pair['count']})"
        for pair in metrics["test"]["most_confused"][:3]
    ]
    servable = "| `digitnet/1/` | the same as a SavedModel for TF Serving |\n"
    return CARD.format(
        **{key: config[key] for key in ("epochs", "batch_size", "learning_rate", "weight_decay")},
        **{key: config["model"][key] for key in ("rotation", "shift", "zoom")},
        preset=trained.preset,
        seed=SHIPPED_SEED,
        warmup_epochs=config["warmup_epochs"],
        parameters=metrics["parameters"],
        backend=f"TensorFlow {metrics['versions']['tensorflow']}",
        keras=f"Keras {metrics['versions']['keras']}",
        numpy=metrics["versions"]["numpy"],
        held_back=metrics["validation"]["n"],
        accuracy=metrics["test"]["accuracy"],
        wrong=_wrong(metrics["test"]),
        calibration=metrics["test"]["expected_calibration_error"],
        seeds=", ".join(metrics["test_accuracy_by_seed"]),
        spread=_spread(metrics),
        confused=", ".join(pairs),
        servable=servable if trained.preset == "base" else "",
    )


if __name__ == "__main__":
    typer.run(main)
