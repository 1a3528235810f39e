"""The output of the commands: messages, tables, JSON, CSV, and one line per picture."""

import contextlib
import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

if TYPE_CHECKING:
    from keras_digitnet.evaluation import LinesReport, Report
    from keras_digitnet.export import Artifact
    from keras_digitnet.reading.answers import FilePrediction, FileReading
    from keras_digitnet.runs import RunSummary

Answer = TypeVar("Answer", "FilePrediction", "FileReading")
T = TypeVar("T")


@contextlib.contextmanager
def messages(quiet: bool, as_json: bool) -> Iterator[None]:
    """Sends log messages to stderr and, with `as_json`, all other prints too."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("keras_digitnet").setLevel(logging.WARNING if quiet else logging.INFO)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def verbosity(quiet: bool) -> int:
    """Keras's `verbose`: a progress bar on a terminal, else one line per epoch; 0 if quiet."""
    if quiet:
        return 0
    return 1 if _is_terminal(sys.stdout) else 2


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream, which may be missing or closed, is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def with_progress(pictures: Sequence[T], quiet: bool) -> Iterable[T]:
    """The pictures, with a progress bar on stderr unless stdout is on the terminal too."""
    if quiet or _is_terminal(sys.stdout) or not _is_terminal(sys.stderr):
        return pictures
    from rich.console import Console
    from rich.progress import track

    return track(pictures, "Reading", console=Console(stderr=True))


def print_answers(
    answers: Iterable[Answer],
    line: Callable[[Answer], str],
    columns: Sequence[str],
    alone: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Prints the answers, including errors, to stdout as they arrive.

    Errors are printed to stderr too, unless stdout is a terminal.

    Args:
        answers: One per picture.
        line: Formats an answer without an error as a line of text.
        columns: The header of the CSV.
        alone: Whether a single picture was named; then its error is printed to
            stderr only, not in place of its text.
        as_json: Print a JSON array instead of lines.
        as_csv: Print CSV instead of lines.

    Raises:
        typer.Exit: With code 2 if all pictures failed, 1 if some did.
    """
    count = failed = 0
    on_stdout = as_json or as_csv or not alone
    on_stderr = not (on_stdout and _is_terminal(sys.stdout))

    def counted() -> Iterator[Answer]:
        nonlocal count, failed
        for answer in answers:
            count += 1
            if answer.error:
                failed += 1
                if on_stderr:
                    typer.echo(f"Error: {answer.error}", err=True)
            yield answer

    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names may hold bytes that are not valid UTF-8; they are printed unchanged.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    if as_json:
        _print_json_array(answer.to_json() for answer in counted())
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(answer.to_row() for answer in counted())
    else:
        for answer in counted():
            if not answer.error:
                typer.echo(line(answer))
            elif on_stdout:
                typer.echo(f"Error: {answer.error}")
    if failed:
        raise typer.Exit(2 if failed == count else 1)


def _print_json_array(rows: Iterable[dict[str, Any]]) -> None:
    """Prints a JSON array with one object per line, so that it can be written and read in parts."""
    before = "["
    try:
        for row in rows:
            typer.echo(f"{before}\n  {json.dumps(row)}", nl=False)
            before = ","
    finally:  # what was read before a failure stays readable
        typer.echo("[]" if before == "[" else "\n]")


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is aligned to the left, the others to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    # Off the terminal, do not wrap names.
    Console(width=None if _is_terminal(sys.stdout) else 240).print(table)


def print_report(report: "Report | LinesReport", title: str) -> None:
    """Prints the metrics of a classifier or reader."""
    from keras_digitnet.evaluation import LinesReport

    if isinstance(report, LinesReport):
        typer.echo(title)
        typer.echo(f"line accuracy         {report.accuracy:.2%}")
        typer.echo(f"character error rate  {report.character_error_rate:.2%}")
        typer.echo(f"detection precision   {report.precision:.2%}")
        typer.echo(f"detection recall      {report.recall:.2%}")
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


def print_artifacts(artifacts: "Sequence[Artifact]", name: str, folder: Path) -> None:
    """Prints a table of the exports in a folder: how they compare with the Keras model `name`."""
    compared = f"{artifacts[0].images:,} test images of {artifacts[0].compared_on}"
    print_table(
        f"{name}, compared with Keras on {compared}",
        ("format", "size", "largest difference", "same labels", "file"),
        [
            (
                artifact.format,
                f"{artifact.size / 1e3:,.0f} kB",
                f"{artifact.difference:.1e}",
                f"{artifact.same_labels / artifact.images:.2%}",
                str(artifact.path.relative_to(folder)),
            )
            for artifact in artifacts
        ],
    )


def print_runs(runs: Sequence["RunSummary"], title: str) -> None:
    """Prints a table of runs, with the accuracy on test images unless marked otherwise."""

    def accuracy(run: "RunSummary") -> str:
        if run.accuracy is None:
            return "none yet"
        return f"{run.accuracy:.2%}{'' if run.accuracy_on == 'test' else ' (validation)'}"

    print_table(
        title,
        ("run", "data", "preset", "backend", "seed", "epochs", "accuracy", "minutes", "date"),
        [
            (
                run.run,
                run.dataset,
                run.preset,
                run.backend,
                str(run.seed),
                str(run.epochs) if run.finished else f"{run.epochs} of {run.planned_epochs}",
                accuracy(run) if run.finished else f"unfinished: {accuracy(run)}",
                f"{run.seconds / 60:.1f}",
                f"{run.started.astimezone():%Y-%m-%d %H:%M}",
            )
            for run in runs
        ],
    )
