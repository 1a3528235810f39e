"""Trains every preset with several seeds, by both recipes, and reports all results.

    python scripts/verify_accuracy.py --write

One recipe is the default of `keras-digitnet train`, the other that of the shipped models.
The `small` and `nano` of the latter learn from the `base` in saved_models/: train `base`
first, and ship it with ship_presets.py.

If it is interrupted, a second call resumes: the result of each finished seed is
stored as a small JSON file, and a seed is trained again if its settings differ from
the current ones. Only settings are compared: after a change of the code that changes
numbers, delete these files and the runs.

Two runs in parallel on one core each are faster than one after the other on both cores.
Existing runs in runs/verified are used:

    taskset -c 0 keras-digitnet train --seed 0 --data mnist --no-export --out runs/verified
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import readme
import typer

from keras_digitnet.artifacts import RunFolder, read_json, write_json
from keras_digitnet.cli.output import print_table
from keras_digitnet.config import CLASSIFIERS, TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.environment import select_backend

RESULTS_DIR = Path(__file__).parent / "results"
RUNS_DIR = Path("runs/verified")
ENSEMBLE = "base"
# The settings of each recipe that are not the defaults.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {preset: {} for preset in CLASSIFIERS},
    "shipped": {
        "nano": {"epochs": 20, "teacher": ("base",)},
        "small": {"epochs": 20, "teacher": ("base",)},
        "base": {"epochs": 20},
    },
}
# How many seeds are trained, from 0 on.
SEEDS = {
    "default": dict.fromkeys(CLASSIFIERS, 5),
    "shipped": {"nano": 5, "small": 5, "base": 3},
}
COLUMNS = (
    "preset",
    "recipe",
    "epochs",
    "parameters",
    "mean test accuracy ± standard deviation",
    "each seed, from 0 on",
    "mean calibration error",
    "median minutes",
)


def main(
    presets: Annotated[
        list[str] | None, typer.Option("--preset", help="A preset; may be repeated. Default: all.")
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", help=f"{' or '.join(RECIPES)}; may be repeated. Default: all."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds, from 0 on.", show_default="as published")
    ] = None,
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`.")] = "mnist",
    runs: Annotated[Path, typer.Option(help="Folder of runs and results.")] = RUNS_DIR,
    write: Annotated[
        bool,
        typer.Option(
            help="Write results into scripts/results/, the table into saved_models/README.md."
        ),
    ] = False,
) -> None:
    """Trains missing seeds; prints mean, standard deviation and every seed."""
    if write and (presets, recipes, seeds, data) != (None, None, None, "mnist"):
        raise typer.BadParameter("--write: expected all presets, recipes and seeds, and mnist")
    select_backend("tensorflow")
    dataset = load_dataset(data)
    results = RESULTS_DIR if write else runs
    rows = []
    for preset in presets or CLASSIFIERS:
        for recipe in recipes or RECIPES:
            count = seeds or SEEDS[recipe][preset]
            configs = [settings(preset, seed, dataset, recipe) for seed in range(count)]
            stem = f"{preset}-{recipe}"
            finished = [
                _result(config, runs, results / f"{stem}-{config.seed}.json") for config in configs
            ]
            rows.append(_row(preset, recipe, finished))
            if preset == ENSEMBLE and count > 1:
                path = results / f"{stem}-ensemble.json"
                rows.append(_ensemble_row(recipe, configs, dataset, runs, path))
    print_table(dataset.name, COLUMNS, rows)
    if write:
        readme.write_block("accuracy", readme.table(COLUMNS, rows))


def settings(preset: str, seed: int, dataset: Dataset, recipe: str) -> TrainConfig:
    """The settings of a recipe, completed as in a run's `config.json`."""
    changed = RECIPES[recipe][preset]
    config = TrainConfig(preset=preset, seed=seed, export=False, **changed)
    return config.completed(dataset.source, len(dataset.classes))


def find_run(config: TrainConfig, runs: Path) -> RunFolder | None:
    """The run on TensorFlow with these settings, preferably a finished one."""
    found = [
        RunFolder(path.parent)
        for path in sorted(runs.glob("*/config.json"))
        if read_json(path)["backend"] == "tensorflow"
        and same_settings(read_json(path)["train"], config)
    ]
    finished = [run for run in found if run.metrics_path.is_file()]
    return next(iter(finished + found), None)


def _result(config: TrainConfig, runs: Path, path: Path) -> dict[str, Any]:
    """The result of one seed, stored at `path` or of a run that is trained now."""
    if path.is_file():
        kept: dict[str, Any] = read_json(path)
        if same_settings(kept["train"], config):
            return kept
    folder = _finished_run(config, runs)
    metrics = read_json(folder.metrics_path)
    result = {
        **{key: metrics[key] for key in ("preset", "seed", "parameters", "backend", "versions")},
        **{key: metrics[key] for key in ("seconds", "kept_epoch", "temperature")},
        "accuracy": metrics["test"]["accuracy"],
        "loss": metrics["test"]["loss"],
        "calibration_error": metrics["test"]["expected_calibration_error"],
        "train": read_json(folder.config_path)["train"],
    }
    write_json(path, result)
    return result


def _finished_run(config: TrainConfig, runs: Path) -> RunFolder:
    from keras_digitnet.training import resume, train

    folder = find_run(config, runs)
    if folder is None:
        return train(config, out_dir=runs, verbose=2).folder
    if not folder.metrics_path.is_file():
        return resume(folder.path, verbose=2).folder
    return folder


def same_settings(saved: dict[str, Any], config: TrainConfig) -> bool:
    """Whether saved settings equal `config`, apart from `export`."""
    return TrainConfig.from_json({**saved, "export": False}) == config


def _row(preset: str, recipe: str, finished: list[dict[str, Any]]) -> tuple[str, ...]:
    accuracies = [result["accuracy"] for result in finished]
    calibration = statistics.mean(result["calibration_error"] for result in finished)
    minutes = statistics.median(result["seconds"] for result in finished) / 60
    spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(finished) > 1 else ""
    return (
        f"`{preset}`",
        recipe,
        str(finished[0]["train"]["epochs"]),
        f"{finished[0]['parameters']:,}",
        f"{statistics.mean(accuracies):.3%}{spread}",
        ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies),
        f"{calibration:.2%}",
        f"{minutes:.1f}",
    )


def _ensemble_row(
    recipe: str,
    configs: list[TrainConfig],
    dataset: Dataset,
    runs: Path,
    path: Path,
) -> tuple[str, ...]:
    """The row of the ensemble, whose result is stored like that of a seed."""
    from keras_digitnet.evaluation import evaluate
    from keras_digitnet.reading.inference import average, load_classifier

    kept = read_json(path) if path.is_file() else {"members": []}
    members = [TrainConfig.from_json(member) for member in kept["members"]]
    if members != configs:
        classifier = average(
            [load_classifier(_finished_run(config, runs).path) for config in configs]
        )
        probabilities = classifier.predict(dataset.test.images).probabilities
        report = evaluate(probabilities, dataset.test.labels, dataset.classes)
        kept = {
            "accuracy": report.accuracy,
            "loss": report.loss,
            "calibration_error": report.expected_calibration_error,
            "members": [config.to_json() for config in configs],
        }
        write_json(path, kept)
    return (
        f"the {len(configs)} `{ENSEMBLE}` together",
        recipe,
        str(configs[0].epochs),
        f"{len(configs) * CLASSIFIERS[ENSEMBLE].parameters:,}",
        f"{kept['accuracy']:.3%}",
        "",
        f"{kept['calibration_error']:.2%}",
        "",
    )


if __name__ == "__main__":
    typer.run(main)
