"""The commands about training: `train`, `evaluate` and `runs`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_digitnet.artifacts import RunFolder, expanded, require_folder
from keras_digitnet.cli.options import (
    MODEL_HELP,
    BackendOption,
    DataOption,
    JsonOption,
    ModelBackendOption,
    QuietOption,
    TestDataOption,
    folder_option,
    one_of,
)
from keras_digitnet.cli.output import messages, print_json, print_report, print_runs, verbosity
from keras_digitnet.config import AUGMENTATIONS, PRESETS, READERS, ModelConfig, TrainConfig
from keras_digitnet.errors import DigitNetError, without_credentials

if TYPE_CHECKING:
    from keras_digitnet.data import Dataset
    from keras_digitnet.evaluation import LinesReport, Report
    from keras_digitnet.reading.finding import Reader
    from keras_digitnet.reading.inference import Classifier
    from keras_digitnet.training import Run

_DEFAULT = TrainConfig()


def train(
    context: typer.Context,
    preset: Annotated[
        str, one_of([*PRESETS], help="The network; see: keras-digitnet presets.")
    ] = _DEFAULT.preset,
    data: DataOption = _DEFAULT.data,
    seed: Annotated[int, typer.Option(help="The same seed gives the same results.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training images.", show_default="the preset's"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images or pages per step.", show_default="the preset's")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="the preset's")
    ] = None,
    warmup_epochs: Annotated[
        float, typer.Option(help="Epochs of linear warm-up, before cosine decay to 0.")
    ] = _DEFAULT.warmup_epochs,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="AdamW's weight decay of the kernels.", show_default="the preset's"),
    ] = None,
    validation_size: Annotated[
        float, typer.Option(help="Fraction of the training images held out for validation.")
    ] = _DEFAULT.validation_size,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many epochs without a lower validation loss.",
            show_default="half of the epochs, but at least 5",
        ),
    ] = None,
    augmentation: Annotated[
        str,
        one_of(
            AUGMENTATIONS,
            help="affine: random rotation, shift, zoom, shear and elastic distortion in one "
            "resampling; layers: the first three, with Keras's layers; none: no augmentation.",
        ),
    ] = "affine",
    start: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A trained model of the same network, or of one with fewer blocks, to start "
            "from: a preset, run or .keras file.",
            show_default="random weights",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A trained classifier of the same classes to learn from, beside the labels: a "
            "preset, run or .keras file. May be repeated.",
            show_default="none",
        ),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Score the test images once, at the end.")
    ] = True,
    export: Annotated[
        bool,
        typer.Option("--export/--no-export", help="Write a SavedModel beside the .keras file."),
    ] = True,
    out: Annotated[Path, folder_option("Where to create the run folder.")] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume the stopped run in this folder, with its settings.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Devices that share each batch, on JAX; in all processes configured by Keras's "
            "KERAS_DISTRIBUTION_* variables.",
            show_default="1, or all of several processes",
        ),
    ] = None,
    backend: BackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network; writes a new run folder with the model, metrics and figures.

    Example: keras-digitnet train --preset nano --epochs 5
    """
    # Of several processes, only process 0 prints.
    silent = os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0") != "0"
    with messages(quiet or silent, as_json):
        if resume:
            _refuse_settings(context)
            run = _resumed(resume, backend, devices, verbosity(quiet))
        else:
            config = TrainConfig(
                preset=preset,
                data=data,
                seed=seed,
                epochs=epochs,  # type: ignore[arg-type]
                batch_size=batch_size,  # type: ignore[arg-type]
                learning_rate=learning_rate,
                warmup_epochs=warmup_epochs,
                weight_decay=weight_decay,  # type: ignore[arg-type]
                validation_size=validation_size,
                patience=patience,
                start=start,
                teacher=tuple(teacher or ()),
                test=test,
                export=export,
            )
            network = config.network
            if isinstance(network, ModelConfig):
                network = replace(network, augmentation=augmentation)
            config = replace(config, model=network)
            run = _trained(config, backend, devices, out, verbosity(quiet))
    if not silent:
        _print_run(run, as_json)


def _resumed(folder: Path, backend: str | None, devices: str | None, verbose: int) -> "Run":
    from keras_digitnet.environment import select_backend

    saved = RunFolder(folder).read_unfinished()
    _prepare_backend(backend or saved["backend"], devices)
    select_backend()
    from keras_digitnet import training

    return training.resume(folder, verbose=verbose, devices=devices)


def _trained(
    config: TrainConfig, backend: str | None, devices: str | None, out: Path, verbose: int
) -> "Run":
    """Trains after all checks that need neither Keras nor the images."""
    from keras_digitnet.data import load_dataset
    from keras_digitnet.environment import select_backend
    from keras_digitnet.reading.inference import find_keras_file

    _prepare_backend(backend, devices)
    require_folder(out)
    for model in filter(None, (config.start, *config.teacher)):
        find_keras_file(model)
    dataset = load_dataset(config.data, seed=config.seed, validation_size=config.validation_size)
    select_backend(backend)
    from keras_digitnet import training

    return training.train(config, dataset, out_dir=out, verbose=verbose, devices=devices)


def _print_run(run: "Run", as_json: bool) -> None:
    if as_json:
        print_json({"run": str(run.folder.path), **run.metrics})
        return
    kind, report = ("test", run.test) if run.test else ("validation", run.validation)
    lines = "lines of " if run.metrics["preset"] in READERS else ""
    print_report(report, f"{run.metrics['dataset']}, {lines}{kind} images")
    typer.echo(f"Everything is in {run.folder.path}")


def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP)],
    data: TestDataOption = None,
    pictures: Annotated[
        Path | None,
        folder_option(
            "Also write mistakes.png and, of classifiers, confusion_matrix.png to this folder.",
            show_default=False,
        ),
    ] = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a trained model, in any format, on the test images of a data set.

    The data set is the one that the model was trained on, unless --data names
    another. The probabilities of several classifiers are averaged. A reader
    reads lines composed of the test images.

    Example: keras-digitnet evaluate exports/base/model.onnx --data mnist
    """
    from keras_digitnet.data import load_dataset
    from keras_digitnet.reading.inference import Classifier, average, find_model, load
    from keras_digitnet.runs import load_own_dataset

    with messages(quiet, as_json):
        for model in models:
            find_model(model, backend)
        if pictures:
            require_folder(pictures := expanded(pictures))
        dataset = load_dataset(data) if data is not None else load_own_dataset(models)
        loaded = [load(model, backend) for model in models]
        report: Report | LinesReport
        if len(loaded) == 1 and not isinstance(loaded[0], Classifier):
            report, title = _evaluate_reader(loaded[0], dataset, pictures)
        else:
            report, title = _evaluate_classifier(average(loaded), dataset, pictures)
    if as_json:
        shown = [without_credentials(model) for model in models]
        print_json({"models": shown, "dataset": dataset.name, **report.to_json()})
    else:
        print_report(report, title)


def _evaluate_classifier(
    classifier: "Classifier", dataset: "Dataset", pictures: Path | None
) -> "tuple[Report, str]":
    from keras_digitnet.evaluation import evaluate

    classifier.require_classes(dataset.classes)
    images, labels = dataset.test.images, dataset.test.labels
    probabilities = classifier.predict(images).probabilities
    report = evaluate(probabilities, labels, dataset.classes)
    title = f"{dataset.name}, {len(labels):,} test images"
    if pictures:
        from keras_digitnet import plots

        matrix = plots.plot_confusion_matrix(report.confusion_matrix, dataset.classes, title)
        plots.save_figure(matrix, pictures / "confusion_matrix.png")
        mistakes = plots.plot_mistakes(images, labels, probabilities, dataset.classes, title)
        plots.save_figure(mistakes, pictures / "mistakes.png")
    return report, title


def _evaluate_reader(
    reader: "Reader", dataset: "Dataset", pictures: Path | None
) -> "tuple[LinesReport, str]":
    from keras_digitnet.written_lines import read_lines

    reader.require_classes(dataset.classes)
    read = read_lines(reader, dataset.test, 1000)
    title = f"{dataset.name}, {len(read.lines):,} lines of test images"
    if pictures:
        from keras_digitnet import plots

        plots.save_figure(plots.plot_lines(read.mistakes(), title), pictures / "mistakes.png")
    return read.report, title


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The folder that holds the runs.")
    ] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs: the best first, unfinished ones last.

    The accuracy is that on the test images if they were evaluated, otherwise
    on the validation images.

    Example: keras-digitnet runs --json
    """
    from keras_digitnet.runs import list_runs

    with messages(quiet=False, as_json=as_json):
        found = list_runs(folder)
    if as_json:
        print_json([run.to_json() for run in found])
    elif found:
        print_runs(found, f"Runs in {folder}")
    else:
        typer.echo(f"No runs in {folder}.")


def _prepare_backend(backend: str | None, devices: str | None) -> None:
    """Selects the backend before NumPy starts its threads; then connects to other processes."""
    from keras_digitnet.environment import set_backend, suppress_native_stderr
    from keras_digitnet.jax_process import needs_distribution

    if needs_distribution(devices, set_backend(backend, for_training=True)):
        with suppress_native_stderr():
            from keras_digitnet import distribution
        distribution.join()


def _refuse_settings(context: typer.Context) -> None:
    """Raises DigitNetError for options that a resumed run, which has its settings, would ignore."""
    allowed = {"resume", "devices", "backend", "quiet", "as_json"}
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in allowed
        and (source := context.get_parameter_source(name))
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise DigitNetError(
            "--resume: expected no settings, since the run has its own; received: "
            f"{', '.join(given)}. Omit them."
        )
