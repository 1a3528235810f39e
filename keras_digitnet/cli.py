"""The command `keras-digitnet`: parse, call, print; nothing else."""

import contextlib
import csv
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from keras_digitnet import __version__
from keras_digitnet.artifacts import RunFolder
from keras_digitnet.config import AUGMENTATIONS, EXPORT_FORMATS, PRESETS, ModelConfig, TrainConfig
from keras_digitnet.environment import BACKENDS, has_stdout, open_standard_descriptors
from keras_digitnet.errors import DigitNetError, Interrupted

if TYPE_CHECKING:
    from keras_digitnet.answers import FilePrediction, FileReading
    from keras_digitnet.data import Dataset
    from keras_digitnet.evaluation import LinesReport, Report
    from keras_digitnet.finding import Reader
    from keras_digitnet.inference import Classifier
    from keras_digitnet.reader import Team


class _Commands(TyperGroup):
    """Turns what a user can mend into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # others may not
            signal.signal(signal.SIGTERM, _on_terminate)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (DigitNetError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as interrupt:
            typer.echo(str(interrupt) or "Interrupted.", err=True)
            raise typer.Exit(128 + getattr(interrupt, "number", signal.SIGINT)) from None


def _on_terminate(number: int, frame: object) -> None:
    """SIGTERM is Ctrl-C with another exit code."""
    raise Interrupted("Terminated.", number)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DEFAULT = TrainConfig()

DataOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|PATH",
        help="auto, mnist, digits, fashion_mnist, a .npz file in Keras's layout, a folder of IDX "
        "files, or a folder with a folder of images for each class. auto takes what "
        "KERAS_DIGITNET_DATA names, else MNIST, else scikit-learn's bundled digits.",
    ),
]
_WHERE = (
    f"{'|'.join(PRESETS)}, the folder of a run, a .keras, .onnx, .tflite or OpenVINO .xml file, "
    "the folder of a SavedModel, or the address of a served model "
    "(http://localhost:8501/v1/models/digitnet)."
)


NamingOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="WHERE",
        help=f"What names the digits: {_WHERE}",
        show_default="the reader and base together",
    ),
]
FindingOption = Annotated[
    str | None,
    typer.Option(
        "--reader",
        metavar="WHERE",
        help="What finds them for a classifier: a reader, wherever it is.",
        show_default="reader, for models of the ten digits",
    ),
]


def _backend_option(what: str) -> Any:
    return typer.Option(
        "--backend",
        metavar="|".join(BACKENDS),
        autocompletion=lambda: list(BACKENDS),
        help=what,
        show_default=False,
    )


BackendOption = Annotated[
    str | None,
    _backend_option(
        "What computes; else KERAS_BACKEND decides, else Keras's keras.json, else TensorFlow."
    ),
]
ModelBackendOption = Annotated[
    str | None,
    _backend_option(
        "Which Keras backend computes, for what Keras runs; else KERAS_BACKEND decides, else "
        "a preset runs in ONNX Runtime and the rest on what keras.json names, or TensorFlow."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; messages go to stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and the result.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-digitnet {__version__}")
        raise typer.Exit


# Those whose answer is what they print.
_ANSWERING = ("evaluate", "predict", "read", "presets", "info")


def _open_streams(command: str | None) -> None:
    """Lets everything print where stdout or stderr is closed, unless the answer would be lost."""
    open_standard_descriptors()
    without_stdout = not has_stdout()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            null = Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115
            setattr(sys, name, null)
    if without_stdout and command in _ANSWERING:
        raise DigitNetError(
            f"stdout: expected it to be open, for what {command} answers; it is closed."
        )


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Trains and uses DigitNet, a small and accurate reader of handwritten digits."""
    _open_streams(context.invoked_subcommand)


@app.command()
def train(
    context: typer.Context,
    preset: Annotated[
        str,
        typer.Option(
            metavar="|".join(PRESETS),
            autocompletion=lambda: list(PRESETS),
            help="Which network; see: keras-digitnet presets.",
        ),
    ] = _DEFAULT.preset,
    data: DataOption = _DEFAULT.data,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training images.", show_default="the preset's"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images, or pages, a step.", show_default="the preset's")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="the preset's")
    ] = None,
    warmup_epochs: Annotated[
        float, typer.Option(help="Epochs of linear warm-up; then half a cosine down to 0.")
    ] = _DEFAULT.warmup_epochs,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="AdamW's decay of the kernels.", show_default="the preset's"),
    ] = None,
    validation_size: Annotated[
        float, typer.Option(help="Fraction of the training images held back to choose by.")
    ] = _DEFAULT.validation_size,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a lower validation loss.",
            show_default="half of the epochs, but at least 5",
        ),
    ] = None,
    augmentation: Annotated[
        str,
        typer.Option(
            metavar="|".join(AUGMENTATIONS),
            autocompletion=lambda: list(AUGMENTATIONS),
            help="affine: random rotation, shift, zoom, slant and bend in one resample; layers: "
            "the first three, by Keras's own layers; none: no random change at all.",
        ),
    ] = "affine",
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Score the test images once, at the end.")
    ] = True,
    export: Annotated[
        bool,
        typer.Option("--export/--no-export", help="Write a SavedModel beside the .keras file."),
    ] = True,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the run's new folder goes.")
    ] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a stopped run, given its folder, which holds its settings.",
            show_default=False,
        ),
    ] = None,
    backend: BackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network; writes a new run folder with the model, figures and pictures.

    Example: keras-digitnet train --preset nano --epochs 5
    """
    from keras_digitnet.environment import select_backend

    with _messages(quiet, as_json):
        if resume:
            _refuse_settings(context)
            used = backend or RunFolder(resume).read_config()["backend"]
            select_backend(used, for_training=True)
            from keras_digitnet import training

            run = training.resume(resume, verbose=_verbosity(quiet))
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
                test=test,
                export=export,
            )
            network = config.network
            if isinstance(network, ModelConfig):
                network = replace(network, augmentation=augmentation)
            select_backend(backend, for_training=True)
            from keras_digitnet import training

            run = training.train(
                replace(config, model=network), out_dir=out, verbose=_verbosity(quiet)
            )
    if as_json:
        _print_json({"run": str(run.folder.path), **run.metrics})
        return
    kind, report = ("test", run.test) if run.test else ("validation", run.validation)
    _print_report(report, f"{run.metrics['dataset']}, {kind} images")
    typer.echo(f"Everything is in {run.folder.path}")


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=_WHERE)],
    data: DataOption = _DEFAULT.data,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also draw confusion_matrix.png and mistakes.png into this folder.",
            show_default=False,
        ),
    ] = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a trained model, wherever it is, on the test images of a data set.

    The probabilities of several classifiers are averaged. A reader reads lines
    that are composed of the test images.

    Example: keras-digitnet evaluate exports/base/model.onnx --data mnist
    """
    from keras_digitnet.data import load_dataset
    from keras_digitnet.inference import Classifier, average, load

    with _messages(quiet, as_json):
        loaded = [load(model, backend) for model in models]
        report: Report | LinesReport
        dataset = load_dataset(data)
        if len(loaded) == 1 and not isinstance(loaded[0], Classifier):
            report, title = _evaluate_reader(loaded[0], dataset, pictures)
        else:
            report, title = _evaluate_classifier(average(loaded), dataset, pictures)
    if as_json:
        _print_json({"models": models, "dataset": dataset.name, **report.to_json()})
    else:
        _print_report(report, title)


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


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures and folders of pictures."),
    ],
    model: NamingOption = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="The pictures are in MNIST's form: light on dark, 28x28, centred."
        ),
    ] = False,
    reader: FindingOption = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Read pictures of one digit each: photos, scans, drawings.

    The reader finds the digit, wherever it is; a picture in MNIST's form goes
    straight to the classifier. Prints label, confidence and file, a line a
    picture. Ends with 1 if some pictures could not be read.

    Example: keras-digitnet predict seven.png scans/
    """
    from keras_digitnet.answers import predict_files

    if raw and model is None:
        model = "base"
    paths, team = _pictures_and_team(images, model, reader, backend, quiet, as_json, as_csv)
    if raw and team.classifier is None:
        raise DigitNetError(f"--raw: expected a classifier; received: {model}, a reader.")
    answers = predict_files(team, _with_progress(paths, quiet), raw)
    columns = ("label", "confidence", "file")
    _print_answers(answers, len(paths), as_json, columns if as_csv else None)


@app.command()
def read(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Pictures and folders of pictures."),
    ],
    model: NamingOption = None,
    reader: FindingOption = None,
    min_confidence: Annotated[
        float, typer.Option(help="A digit that is less probable is printed as ?.")
    ] = 0.0,
    smallest: Annotated[
        float,
        typer.Option(
            help="Height of the smallest digits that are sought, as a share of the picture's "
            "longer side; less takes longer."
        ),
    ] = 1 / 80,
    annotate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also draw each picture with its digits' boxes into this folder.",
            show_default=False,
        ),
    ] = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Read the numbers in pictures: digits in a row, or several rows of them.

    Prints the text, a picture a line, its rows separated by spaces. Ends with
    1 if some pictures could not be read.

    Example: keras-digitnet read receipt.jpg scans/ --annotate seen/
    """
    from keras_digitnet.answers import read_files

    if not 0 <= min_confidence <= 1:
        raise DigitNetError(f"--min-confidence: expected 0 to 1; received: {min_confidence}.")
    if not 0 < smallest <= 1:
        raise DigitNetError(
            f"--smallest: expected more than 0, and 1 at most; received: {smallest}."
        )
    paths, team = _pictures_and_team(images, model, reader, backend, quiet, as_json, as_csv)
    answers = read_files(team, _with_progress(paths, quiet), min_confidence, annotate, smallest)
    columns = ("text", "confidence", "file")
    _print_answers(answers, len(paths), as_json, columns if as_csv else None)


@app.command()
def demo(
    model: NamingOption = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen at.")] = 7860,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a web page that reads what one draws, and numbers in photos.

    It works without a network, and ends with Ctrl-C.

    Example: keras-digitnet demo --model small
    """
    with _messages(quiet, as_json=False):
        from keras_digitnet.demo import serve
        from keras_digitnet.inference import load
        from keras_digitnet.reader import team

        serve(team(load(model, backend) if model else None, backend=backend), host, port)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"{'|'.join(PRESETS)}, the folder of a run, or a .keras file."
        ),
    ] = "base",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join((*EXPORT_FORMATS, "all")),
            autocompletion=lambda: [*EXPORT_FORMATS, "all"],
            help="What to write; all is each of them in float32.",
        ),
    ] = "saved_model",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8",
            help="With litert: eight bits, calibrated on training digits.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the files go.",
            show_default="exports/ and the name of the preset or run",
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model for TF Serving, ONNX Runtime, LiteRT or OpenVINO.

    Each file is loaded again and compared with the Keras model; one that does
    not agree is not kept.

    Example: keras-digitnet export base --format all
    """
    from keras_digitnet.environment import require_tensorflow, select_backend

    with _messages(quiet, as_json):
        require_tensorflow("export")
        select_backend("tensorflow")  # whatever KERAS_BACKEND says: only TensorFlow writes them
        from keras_digitnet.export import export_model

        formats = EXPORT_FORMATS if form == "all" else (form,)
        out_dir = out or Path("exports") / _name_of(model)
        artifacts = export_model(model, out_dir, formats, quantize)
    if as_json:
        rows = [artifact.to_json() for artifact in artifacts]
        _print_json({"model": model, "artifacts": rows})
        return
    compared = f"{artifacts[0].images:,} test images of {artifacts[0].compared_on}"
    print_table(
        f"{_name_of(model)}, compared with Keras on {compared}",
        ("format", "size", "largest difference", "same labels", "file"),
        [
            (
                artifact.format,
                f"{artifact.size / 1e3:,.0f} kB",
                f"{artifact.difference:.1e}",
                f"{artifact.same_labels / artifact.images:.2%}",
                str(artifact.path.relative_to(out_dir)),
            )
            for artifact in artifacts
        ],
    )
    typer.echo(f"Everything is in {out_dir}")


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the networks that can be trained."""
    if as_json:
        _print_json({name: asdict(preset) for name, preset in PRESETS.items()})
        return
    rows = [
        (
            name,
            f"{preset.parameters:,}",
            " / ".join(map(str, preset.model.widths)),
            " / ".join(map(str, preset.model.depths)),
            f"{preset.model.expansion}",
            f"{preset.learning_rate:g}",
        )
        for name, preset in PRESETS.items()
    ]
    print_table(
        "Presets",
        ("preset", "parameters", "widths", "depths", "expansion", "learning rate"),
        rows,
    )


@app.command()
def info(backend: BackendOption = None, as_json: JsonOption = False) -> None:
    """Show versions, the backend, its devices, and on a Mac the state of the Metal plugin.

    Ends with 2 if a backend that was named cannot be used.
    """
    from keras_digitnet import environment

    found: dict[str, Any] = {"versions": environment.versions()}
    if metal := environment.metal_status():
        found["metal"] = metal
    problem = None
    try:
        found["backend"] = environment.select_backend(backend)
        found["devices"] = environment.devices(found["backend"])
    except DigitNetError as error:
        problem = error  # shown last: the versions are what explains it
    named = backend or environment.NAMED_BACKEND
    if problem and not named:
        found["problem"] = str(problem)
    if as_json:
        _print_json(found)
    else:
        print_table("Versions", ("package", "version"), list(found["versions"].items()))
        for key in ("metal", "backend", "problem"):
            if key in found:
                typer.echo(f"{key}: {found[key]}")
        if "devices" in found:
            typer.echo(f"devices: {', '.join(found['devices'])}")
    if problem and named:
        raise problem


def _name_of(model: str) -> str:
    """A preset's name, a run's folder, or that of the file that is not just `model`."""
    path = Path(model).resolve()
    if model in PRESETS or path.is_dir():
        return path.name
    return path.parent.name if path.stem == "model" else path.stem


def _refuse_settings(context: typer.Context) -> None:
    """A resumed run has its settings; a flag that would be ignored is a mistake."""
    allowed = {"resume", "backend", "quiet", "as_json"}
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in allowed
        and (source := context.get_parameter_source(name))
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise DigitNetError(
            f"--resume takes its settings from the run; received also: {', '.join(given)}. "
            "Leave them out."
        )


def _verbosity(quiet: bool) -> int:
    """Keras's bar on a terminal, a line an epoch elsewhere."""
    if quiet:
        return 0
    return 1 if sys.stdout.isatty() else 2


@contextlib.contextmanager
def _messages(quiet: bool, as_json: bool) -> Iterator[None]:
    """Sends the package's messages to stderr, and with JSON all progress too."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("keras_digitnet").setLevel(logging.WARNING if quiet else logging.INFO)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def _with_progress(paths: list[str], quiet: bool) -> Iterable[str]:
    """The paths, with a bar where the answers go to a file and leave the terminal free."""
    if quiet or sys.stdout.isatty() or not sys.stderr.isatty():
        return paths
    from rich.console import Console
    from rich.progress import track

    return track(paths, "Reading", console=Console(stderr=True))


def _pictures_and_team(
    images: list[str],
    model: str | None,
    reader: str | None,
    backend: str | None,
    quiet: bool,
    as_json: bool,
    as_csv: bool,
) -> "tuple[list[str], Team]":
    """The pictures that are meant, and what reads them."""
    from keras_digitnet.finding import Reader
    from keras_digitnet.inference import load
    from keras_digitnet.picture_files import find_pictures
    from keras_digitnet.reader import team

    if as_json and as_csv:
        raise DigitNetError("expected --json or --csv; received: both.")
    with _messages(quiet, as_json or as_csv):
        paths = list(find_pictures(images))
        finder = load(reader, backend) if reader else None
        if finder is not None and not isinstance(finder, Reader):
            raise DigitNetError(f"--reader: expected a reader; received: {reader}, a classifier.")
        return paths, team(load(model, backend) if model else None, finder, backend)


def _print_answers(
    answers: "Iterable[FilePrediction | FileReading]",
    count: int,
    as_json: bool,
    columns: Sequence[str] | None,
) -> None:
    """The answers on stdout as they come, the errors on stderr; the exit code tells of both."""
    failed = 0

    def good() -> "Iterator[FilePrediction | FileReading]":
        nonlocal failed
        for answer in answers:
            if answer.error:
                failed += 1
                typer.echo(f"Error: {answer.error}", err=True)
            else:
                yield answer

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold bytes that are no text; they go out as they came in.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    if as_json:
        _print_json_array(answer.to_json() for answer in good())
    elif columns:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(answer.to_row() for answer in good())
    else:
        for answer in good():
            typer.echo(answer.to_line())
    if failed:
        raise typer.Exit(2 if failed == count else 1)


def _print_json_array(rows: Iterable[dict[str, Any]]) -> None:
    """One JSON array, an object a line, so that neither side needs to hold all of it."""
    before = "["
    for row in rows:
        typer.echo(f"{before}\n  {json.dumps(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal, numbers to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _print_report(report: "Report | LinesReport", title: str) -> None:
    from keras_digitnet.evaluation import LinesReport

    if isinstance(report, LinesReport):
        typer.echo(title)
        typer.echo(f"lines read right   {report.accuracy:.2%}")
        typer.echo(f"character errors   {report.character_error_rate:.2%}")
        typer.echo(f"found, precision   {report.precision:.2%}")
        typer.echo(f"found, recall      {report.recall:.2%}")
        return
    errors = round((1 - report.accuracy) * report.n)
    rows = [
        (c.name, f"{c.precision:.2%}", f"{c.recall:.2%}", f"{c.f1:.2%}", f"{c.support:,}")
        for c in report.per_class
    ]
    print_table(title, ("class", "precision", "recall", "F1", "images"), rows)
    typer.echo(f"accuracy           {report.accuracy:.2%} ({errors:,} of {report.n:,} wrong)")
    typer.echo(f"top-2 accuracy     {report.top2_accuracy:.2%}")
    typer.echo(f"loss               {report.loss:.4f}")
    typer.echo(f"calibration error  {report.expected_calibration_error:.2%}")
    if report.most_confused:
        pairs = [f"{' and '.join(p.classes)} ({p.count})" for p in report.most_confused[:5]]
        typer.echo(f"most confused      {', '.join(pairs)}")
