"""What the commands print: messages, tables, JSON, CSV, and a line a picture."""

import contextlib
import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

if TYPE_CHECKING:
    from keras_digitnet.answers import FilePrediction, FileReading
    from keras_digitnet.evaluation import LinesReport, Report
    from keras_digitnet.runs import RunSummary

Answer = TypeVar("Answer", "FilePrediction", "FileReading")
T = TypeVar("T")


@contextlib.contextmanager
def messages(quiet: bool, as_json: bool) -> Iterator[None]:
    """Sends the package's messages to stderr, and with JSON all progress too."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("keras_digitnet").setLevel(logging.WARNING if quiet else logging.INFO)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def verbosity(quiet: bool) -> int:
    """Keras's bar on a terminal, a line an epoch elsewhere."""
    if quiet:
        return 0
    return 1 if _is_terminal(sys.stdout) else 2


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody watches; a process may have no such stream, or a closed one."""
    return stream is not None and not stream.closed and stream.isatty()


def with_progress(pictures: Sequence[T], quiet: bool) -> Iterable[T]:
    """The pictures, with a bar where the answers go to a file and leave the terminal free."""
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
    """The answers on stdout as they come, errors among them; the exit code tells of both.

    Errors go to stderr as well, unless the terminal shows stdout already.

    Args:
        answers: One a picture.
        line: Makes an answer without an error a line for people.
        columns: The header of the CSV.
        alone: Whether one picture was named and nothing else: an error is none
            of its text.
        as_json: Print a JSON array in place of lines.
        as_csv: Print CSV.
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
        # A file name may hold bytes that are no text; they go out as they came in.
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
    """One JSON array, an object a line, so that neither side needs to hold all of it."""
    before = "["
    for row in rows:
        typer.echo(f"{before}\n  {json.dumps(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def print_json(value: Any) -> None:
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
    # Where nobody looks, no name is broken into lines.
    Console(width=None if _is_terminal(sys.stdout) else 240).print(table)


def print_report(report: "Report | LinesReport", title: str) -> None:
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


def print_runs(runs: Sequence["RunSummary"], title: str) -> None:
    """A table of runs; the accuracy on test images, unless it says otherwise."""

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
