"""Trains every preset with several seeds and reports them all; the README's table comes from here.

    python scripts/verify_accuracy.py --write

Each finished seed is kept as a small JSON file in scripts/results/, so that a
second start goes on where the first one stopped. A seed that was trained by
another recipe than today's is trained again.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import readme
import typer

from keras_digitnet.artifacts import RunFolder, read_json, write_json
from keras_digitnet.cli import print_table
from keras_digitnet.config import PRESETS, TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.environment import select_backend

ROOT = Path(__file__).parents[1]
ENSEMBLE = "base"
COLUMNS = (
    "preset",
    "parameters",
    "mean test accuracy",
    "each seed, from 0 on",
    "calibration error",
    "minutes a seed",
)


def main(
    presets: Annotated[
        list[str] | None, typer.Option("--preset", help="One of the presets; else all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="From 0 on.")] = 5,
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`.")] = "mnist",
    epochs: Annotated[int, typer.Option(help="As for `keras-digitnet train`.")] = 10,
    runs: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/verified"),
    results: Annotated[Path, typer.Option(help="What is kept.")] = ROOT / "scripts" / "results",
    write: Annotated[bool, typer.Option(help="Put the table into README.md.")] = False,
) -> None:
    """Trains what is missing; prints mean, standard deviation and every seed."""
    select_backend("tensorflow")
    dataset = load_dataset(data)
    rows = []
    for preset in presets or PRESETS:
        finished = []
        for seed in range(seeds):
            config = TrainConfig(preset=preset, seed=seed, epochs=epochs, export=False)
            config = config.completed(dataset.source, len(dataset.classes))
            finished.append(_result(config, runs, results / f"{preset}-{seed}.json"))
        rows.append(_row(preset, finished))
        if preset == ENSEMBLE and seeds > 1:
            rows.append(_ensemble_row(finished, dataset, runs, results / f"{preset}-ensemble.json"))
    print_table(f"{dataset.name}, {epochs} epochs", COLUMNS, rows)
    if write:
        readme.write_block("accuracy", readme.table(COLUMNS, rows))


def _result(config: TrainConfig, runs: Path, path: Path) -> dict[str, Any]:
    """The figures of one seed: those kept at `path`, else of a run that is trained now."""
    if path.is_file() and _same_recipe(read_json(path)["train"], config):
        return dict(read_json(path))
    folder = _finished_run(config, runs)
    metrics = read_json(folder.metrics_path)
    result = {
        **{key: metrics[key] for key in ("preset", "seed", "parameters", "backend", "versions")},
        **{key: metrics[key] for key in ("seconds", "best_epoch", "temperature")},
        "accuracy": metrics["test"]["accuracy"],
        "loss": metrics["test"]["loss"],
        "calibration_error": metrics["test"]["expected_calibration_error"],
        "train": read_json(folder.config_path)["train"],
    }
    write_json(path, result)
    return result


def _finished_run(config: TrainConfig, runs: Path) -> RunFolder:
    from keras_digitnet.training import resume, train

    folder = _run_of(config, runs)
    if folder is None:
        return train(config, out_dir=runs, verbose=2).folder
    if not folder.metrics_path.is_file():
        return resume(folder.path, verbose=2).folder
    return folder


def _run_of(config: TrainConfig, runs: Path) -> RunFolder | None:
    """The run, finished or not, that `config` made."""
    for path in sorted(runs.glob("*/config.json")):
        if _same_recipe(read_json(path)["train"], config):
            return RunFolder(path.parent)
    return None


def _same_recipe(saved: dict[str, Any], config: TrainConfig) -> bool:
    """Whether the settings of a run, by whatever version of this package, are `config`."""
    return bool(saved == json.loads(json.dumps(config.to_json())))


def _row(preset: str, finished: list[dict[str, Any]]) -> tuple[str, ...]:
    accuracies = [result["accuracy"] for result in finished]
    calibration = statistics.mean(result["calibration_error"] for result in finished)
    minutes = statistics.median(result["seconds"] for result in finished) / 60
    spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(finished) > 1 else ""
    return (
        f"`{preset}`",
        f"{finished[0]['parameters']:,}",
        f"{statistics.mean(accuracies):.3%}{spread}",
        ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies),
        f"{calibration:.2%}",
        f"{minutes:.1f}",
    )


def _ensemble_row(
    members: list[dict[str, Any]], dataset: Dataset, runs: Path, path: Path
) -> tuple[str, ...]:
    """The mean of the members' probabilities, scored once and kept like a seed."""
    from keras_digitnet.evaluation import evaluate
    from keras_digitnet.inference import average, load

    recipes = [member["train"] for member in members]
    if not path.is_file() or read_json(path)["members"] != recipes:
        configs = [TrainConfig.from_json(recipe) for recipe in recipes]
        classifier = average([load(_finished_run(config, runs).path) for config in configs])
        probabilities = classifier.predict(dataset.test.images).probabilities
        report = evaluate(probabilities, dataset.test.labels, dataset.classes)
        result = {
            "accuracy": report.accuracy,
            "loss": report.loss,
            "calibration_error": report.expected_calibration_error,
            "members": recipes,
        }
        write_json(path, result)
    kept = read_json(path)
    return (
        f"the {len(members)} `{ENSEMBLE}` together",
        f"{sum(member['parameters'] for member in members):,}",
        f"{kept['accuracy']:.3%}",
        "",
        f"{kept['calibration_error']:.2%}",
        "",
    )


if __name__ == "__main__":
    typer.run(main)
