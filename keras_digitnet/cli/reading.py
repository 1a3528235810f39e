"""The commands that read pictures: `predict` for one digit each, `read` for numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_digitnet.artifacts import expanded, require_folder
from keras_digitnet.cli.options import (
    CsvOption,
    JobsOption,
    JsonOption,
    ModelBackendOption,
    ModelOption,
    PicturesArgument,
    QuietOption,
    ReaderOption,
    folder_option,
)
from keras_digitnet.cli.output import messages, print_answers, with_progress
from keras_digitnet.errors import DigitNetError, without_credentials

if TYPE_CHECKING:
    from keras_digitnet.pictures.sources import NamedBytes
    from keras_digitnet.reading.pipeline import Pipeline


def predict(
    images: PicturesArgument,
    model: ModelOption = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="The pictures are in MNIST's form already: light on dark, 28x28, centred."
        ),
    ] = False,
    reader: ReaderOption = None,
    jobs: JobsOption = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Read pictures of one digit each: photos, scans, drawings.

    The reader finds the digit anywhere in the picture; a picture in MNIST's
    form goes straight to the classifier. Prints one line per picture: label,
    confidence and file, or an error. Exits with 1 if some pictures could not
    be read, with 2 if none could.

    Example: keras-digitnet predict seven.png scans/
    """
    from keras_digitnet.reading.answers import FilePrediction, predict_files

    if raw and model is None:
        model = "base"
    pictures, jobs, pipeline = _prepared(
        images, model, reader, jobs, backend, quiet, as_json, as_csv, raw
    )
    if pipeline is None:
        answers = _errors_of_missing(FilePrediction, pictures)
    elif raw and pipeline.classifier is None:
        raise _wrong_kind("--raw", model, expected="classifier", received="reader")
    else:
        answers = predict_files(pipeline, with_progress(pictures, quiet), raw, jobs=jobs)
    columns = ("label", "confidence", "file", "error")
    alone = _is_single(pictures, images)
    print_answers(answers, FilePrediction.to_line, columns, alone, as_json, as_csv)


def read(
    images: PicturesArgument,
    model: ModelOption = None,
    reader: ReaderOption = None,
    min_confidence: Annotated[
        float, typer.Option(help="Digits with less confidence are printed as ?.")
    ] = 0.0,
    smallest: Annotated[
        float,
        typer.Option(
            help="Height of the smallest digits to find, as a fraction of the picture's longer "
            "side; smaller values take longer."
        ),
    ] = 1 / 80,
    annotate: Annotated[
        Path | None,
        folder_option(
            "Also write each picture with its digits' boxes to this folder.", show_default=False
        ),
    ] = None,
    jobs: JobsOption = None,
    backend: ModelBackendOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Read the numbers in pictures: digits in one or more lines.

    Prints the text, with spaces between the lines. For several pictures, prints
    one line each: text, confidence and file, or an error. Exits with 1 if some
    pictures could not be read, with 2 if none could.

    Example: keras-digitnet read receipt.jpg scans/ --annotate annotated/
    """
    if not 0 <= min_confidence <= 1:
        raise DigitNetError(f"--min-confidence: expected 0 to 1; received: {min_confidence}.")
    if not 0 < smallest <= 1:
        raise DigitNetError(
            f"--smallest: expected more than 0 and at most 1; received: {smallest}."
        )
    if annotate:
        require_folder(annotate := expanded(annotate))
    from keras_digitnet.reading.answers import FileReading, read_files

    pictures, jobs, pipeline = _prepared(
        images, model, reader, jobs, backend, quiet, as_json, as_csv
    )
    if annotate:
        _require_none_inside(annotate, pictures)
    if pipeline is None:
        answers = _errors_of_missing(FileReading, pictures)
    else:
        shown = with_progress(pictures, quiet)
        answers = read_files(pipeline, shown, min_confidence, annotate, smallest, jobs)
    columns = ("text", "confidence", "file", "error")
    alone = _is_single(pictures, images)
    line = FileReading.to_line if alone else FileReading.to_named_line
    print_answers(answers, line, columns, alone, as_json, as_csv)


def _require_none_inside(folder: Path, pictures: "Sequence[str | NamedBytes]") -> None:
    """Refuses to write into a folder of the pictures themselves, which would be overwritten."""
    for picture in pictures:
        if isinstance(picture, str) and folder.resolve() in Path(picture).resolve().parents:
            raise DigitNetError(
                f"--annotate: expected a folder without the pictures to read; received: {folder}, "
                f"which holds {picture}. Choose another folder."
            )


def _prepared(
    images: Sequence[str],
    model: str | None,
    reader: str | None,
    jobs: int | None,
    backend: str | None,
    quiet: bool,
    as_json: bool,
    as_csv: bool,
    raw: bool = False,
) -> "tuple[list[str | NamedBytes], int, Pipeline | None]":
    """The pictures, the number of jobs, and the models; `None` if no picture exists."""
    from keras_digitnet.formats.runtime import usable_cpus
    from keras_digitnet.pictures.files import find_pictures
    from keras_digitnet.pictures.sources import is_there, read_standard_input
    from keras_digitnet.reading.finding import Reader
    from keras_digitnet.reading.inference import find_model, is_recorded_reader, load
    from keras_digitnet.reading.pipeline import as_pipeline

    if as_json and as_csv:
        raise DigitNetError("expected --json or --csv; received: both.")
    with messages(quiet, as_json or as_csv):
        if model and is_recorded_reader(find_model(model, backend)) and raw:
            raise _wrong_kind("--raw", model, expected="classifier", received="reader")
        if reader and is_recorded_reader(find_model(reader, backend)) is False:
            raise _wrong_kind("--reader", reader, expected="reader", received="classifier")
        pictures: list[str | NamedBytes] = [*find_pictures(images)]
        if "-" in pictures:
            content = read_standard_input()
            pictures = [content if picture == "-" else picture for picture in pictures]
        jobs = max(1, min(jobs or usable_cpus(), len(pictures)))
        if not any(map(is_there, pictures)):
            return pictures, jobs, None
        threads = 1 if jobs > 1 else None
        finder = load(reader, backend, threads) if reader else None
        if finder is not None and not isinstance(finder, Reader):
            raise _wrong_kind("--reader", reader, expected="reader", received="classifier")
        named = load(model, backend, threads) if model else None
        return pictures, jobs, as_pipeline(named, finder, backend, threads)


def _wrong_kind(option: str, where: str | None, expected: str, received: str) -> DigitNetError:
    shown = without_credentials(where)
    return DigitNetError(f"{option}: expected a {expected}; received: {shown}, a {received}.")


def _errors_of_missing(kind: Any, pictures: "Sequence[str | NamedBytes]") -> Iterator[Any]:
    """The errors of pictures that do not exist, without loading a model."""
    from keras_digitnet.pictures.decoding import read_grey

    for picture in pictures:
        try:
            read_grey(picture)
        except DigitNetError as error:
            yield kind(str(picture), error=str(error))


def _is_single(pictures: "Sequence[str | NamedBytes]", images: Sequence[str]) -> bool:
    """Whether a single picture was named, and no folder."""
    return len(images) == 1 and [str(picture) for picture in pictures] == images
