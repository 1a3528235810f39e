"""The command `keras-digitnet`: parse, check what is cheap to check, call, print."""

import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from keras_digitnet import __version__
from keras_digitnet.artifacts import expanded, require_folder
from keras_digitnet.cli.options import (
    BackendOption,
    JsonOption,
    ModelBackendOption,
    ModelOption,
    QuietOption,
    folder_option,
    one_of,
)
from keras_digitnet.cli.output import messages, print_artifacts, print_json, print_table
from keras_digitnet.cli.reading import predict, read
from keras_digitnet.cli.training import evaluate, runs, train
from keras_digitnet.config import PRESETS
from keras_digitnet.environment import has_stdout, open_standard_descriptors
from keras_digitnet.errors import DigitNetError, Interrupted
from keras_digitnet.formats import EXPORT_FORMATS, chosen_formats
from keras_digitnet.jax_process import compilation_cache, enable_compilation_cache


class _Commands(TyperGroup):
    """Reports user-fixable errors as one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # other threads cannot
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
    """Handles SIGTERM like Ctrl-C, with another exit code."""
    raise Interrupted("Terminated.", number)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-digitnet {__version__}")
        raise typer.Exit


# Commands that write their result to stdout only.
_PRINTING = ("evaluate", "predict", "read", "presets", "info", "runs")


def _open_streams(command: str | None) -> None:
    """Replaces a closed stdout or stderr with the null device.

    Raises:
        DigitNetError: stdout is closed, and the command's result would be lost.
    """
    open_standard_descriptors()
    without_stdout = not has_stdout()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            null = Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115
            setattr(sys, name, null)
    if without_stdout and command in _PRINTING:
        raise DigitNetError(
            f"stdout: expected an open stream for the output of {command}; received: a closed one."
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
    """Train and use DigitNet, a small and accurate reader of handwritten digits."""
    _open_streams(context.invoked_subcommand)
    enable_compilation_cache()


for command in (train, evaluate, predict, read):
    app.command()(command)


@app.command()
def demo(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
) -> None:
    """Serve a web page that reads drawn digits and numbers in photos.

    Works without a network; stop it with Ctrl-C.

    Example: keras-digitnet demo --model small
    """
    with messages(quiet, as_json=False):
        from keras_digitnet.reading.inference import find_model, load

        if model:
            find_model(model, backend)
        from keras_digitnet.demo import require_packages, serve
        from keras_digitnet.reading.pipeline import as_pipeline

        require_packages()  # before the model is loaded, which takes longer
        serve(as_pipeline(load(model, backend) if model else None, backend=backend), host, port)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"{'|'.join(PRESETS)}, the folder of a run, or a .keras file."
        ),
    ] = "base",
    form: Annotated[
        list[str],
        one_of(
            (*EXPORT_FORMATS, "all"),
            "--format",
            help="The format; may be repeated. all means all but litert_int8, which is quantized "
            "to eight bits.",
        ),
    ] = ["saved_model"],  # noqa: B006  # Typer copies it
    out: Annotated[
        Path | None,
        folder_option("Output folder.", show_default="exports/ and the name of the preset or run"),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model for TF Serving, ONNX Runtime, LiteRT or OpenVINO.

    Each file is loaded again and compared with the Keras model; files that
    fail this verification are deleted.

    Example: keras-digitnet export base --format all
    """
    from keras_digitnet.environment import require_tensorflow, select_backend
    from keras_digitnet.reading.inference import find_keras_file, is_recorded_reader

    formats = tuple(form)
    out_dir = expanded(out or Path("exports") / _name_of(model))
    with messages(quiet, as_json):
        keras_path = find_keras_file(model)
        chosen_formats(formats, of_reader=bool(is_recorded_reader(keras_path)))
        require_folder(out_dir)
        require_tensorflow("export")
        select_backend("tensorflow")  # overrides KERAS_BACKEND: only TensorFlow can export
        from keras_digitnet.export import export_model

        artifacts = export_model(model, out_dir, formats)
    if as_json:
        rows = [artifact.to_json() for artifact in artifacts]
        print_json({"model": model, "artifacts": rows})
        return
    print_artifacts(artifacts, _name_of(model), out_dir)
    typer.echo(f"Everything is in {out_dir}")


app.command()(runs)


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the networks that can be trained."""
    if as_json:
        print_json({name: asdict(preset) for name, preset in PRESETS.items()})
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
    """Show versions, the backend, its devices, and the Metal plugin's state on a Mac.

    Exits with 2 if the requested backend cannot be used.
    """
    from keras_digitnet import environment

    found: dict[str, Any] = {"versions": environment.versions()}
    if metal := environment.metal_status():
        found["metal"] = metal
    problem = None
    try:
        found["backend"] = environment.select_backend(backend)
        found["devices"] = environment.devices(found["backend"])
        if found["backend"] == "jax":
            found["compiled programs"] = compilation_cache() or "not cached"
    except DigitNetError as error:
        problem = error  # shown last, after the versions that explain it
    named = backend or environment.REQUESTED_BACKEND
    if problem and not named:
        found["problem"] = str(problem)
    if as_json:
        print_json(found)
    else:
        print_table("Versions", ("package", "version"), list(found["versions"].items()))
        for key in ("metal", "backend", "compiled programs", "problem"):
            if key in found:
                typer.echo(f"{key}: {found[key]}")
        if "devices" in found:
            typer.echo(f"devices: {', '.join(found['devices'])}")
    if problem and named:
        raise problem


def _name_of(model: str) -> str:
    """The name of a preset, folder or file; for `model.keras`, of the folder that holds it."""
    path = Path(model).resolve()
    if model in PRESETS or path.is_dir():
        return path.name
    return path.parent.name if path.stem == "model" else path.stem
