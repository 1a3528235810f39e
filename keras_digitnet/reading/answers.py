"""Reads picture files, giving an answer or an error for each."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from keras_digitnet.artifacts import atomic_write
from keras_digitnet.errors import DigitNetError, ModelError
from keras_digitnet.pictures.decoding import read_image
from keras_digitnet.pictures.sources import NamedBytes
from keras_digitnet.reading.finding import SMALLEST
from keras_digitnet.reading.inference import require_size
from keras_digitnet.reading.pipeline import FoundDigit, Model, as_pipeline
from keras_digitnet.reading.reader import find_digit, read
from keras_digitnet.reading.results import Reading, annotate

T = TypeVar("T")
U = TypeVar("U")


def in_order(function: Callable[[T], U], items: Iterable[T], jobs: int) -> Iterator[U]:
    """Maps a function over the items in `jobs` threads; yields the results in order.

    At most two items per thread are in progress, so that memory does not grow
    with the number of items.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    threads = ThreadPoolExecutor(jobs)
    pending: deque[Future[U]] = deque()
    try:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) == 2 * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class FilePrediction:
    """The answer for one picture of one digit.

    Attributes:
        path: The file, as it was named.
        label: The name of the most probable class; empty after an error.
        confidence: Its probability, times the digit's presence.
        error: Why the file could not be read; empty otherwise.
    """

    path: str
    label: str = ""
    confidence: float = 0.0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """`file`, `label`, `confidence` and `error`; those that do not apply are `None`."""
        label, confidence = (None, None) if self.error else (self.label, self.confidence)
        return {
            "file": self.path,
            "label": label,
            "confidence": confidence,
            "error": self.error or None,
        }

    def to_row(self) -> tuple[str, str, str, str]:
        """Label, confidence, file, error."""
        confidence = "" if self.error else f"{self.confidence:.6f}"
        return self.label, confidence, self.path, self.error

    def to_line(self) -> str:
        """Label, confidence and file, as a line of text."""
        return f"{self.label}  {self.confidence:7.2%}  {on_one_line(self.path)}"


def predict_files(
    model: Model,
    paths: Iterable[str | NamedBytes],
    raw: bool = False,
    batch_size: int = 256,
    jobs: int = 1,
) -> Iterator[FilePrediction]:
    """Reads pictures of one digit each.

    Args:
        model: The model, as for `as_pipeline`.
        paths: The files.
        raw: Whether the pictures are in MNIST's form, so that they are only
            resized; needs a classifier.
        batch_size: Pictures that are classified at a time and held in memory.
        jobs: Threads that find the digits.

    Yields:
        One answer per file, in order. A file that cannot be read, or shows no
        digit or several, gets an error.

    Raises:
        DigitNetError: `batch_size` is less than 1, or `raw` is given without a
            classifier.
        ModelError: The model fails, which is no fault of the pictures.
    """
    require_size(batch_size)
    pipeline = as_pipeline(model)
    if raw and pipeline.classifier is None:
        raise DigitNetError("raw: expected a classifier; received: a reader alone.")

    def find(path: str | NamedBytes) -> tuple[str, FoundDigit | None, str]:
        try:
            return (
                str(path),
                FoundDigit(read_image(path)[0]) if raw else find_digit(path, pipeline),
                "",
            )
        except ModelError:
            raise
        except DigitNetError as error:
            return str(path), None, str(error)

    found = in_order(find, paths, jobs)
    while batch := list(itertools.islice(found, batch_size)):
        classified = iter(pipeline.classify([each for _, each, _ in batch if each]))
        for path, each, error in batch:
            if each is None:
                yield FilePrediction(path, error=error)
            else:
                probabilities = next(classified)
                confidence = each.presence * float(probabilities.max())
                label = pipeline.classes[probabilities.argmax()]
                yield FilePrediction(path, label, confidence)


@dataclass(frozen=True)
class FileReading:
    """The answer for one picture of numbers.

    Attributes:
        path: The file, as it was named.
        reading: The digits; `None` after an error.
        error: Why the file could not be read; empty otherwise.
    """

    path: str
    reading: Reading | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """`file`, `text`, `confidence`, `digits` and `error`; those that do not apply are `None`.

        Each digit has `label`, `confidence`, `alternatives` and `box`.
        """
        if self.reading is None:
            nothing = dict.fromkeys(("text", "confidence", "digits"))
            return {"file": self.path, **nothing, "error": self.error}
        digits = [
            {
                "label": digit.label,
                "confidence": digit.confidence,
                "alternatives": dict(digit.alternatives),
                "box": digit.box,
            }
            for digit in self.reading.digits
        ]
        return {
            "file": self.path,
            "text": self.reading.text,
            "confidence": self.reading.confidence,
            "digits": digits,
            "error": None,
        }

    def to_row(self) -> tuple[str, str, str, str]:
        """Text on one line, confidence, file, error."""
        confidence = f"{self.reading.confidence:.6f}" if self.reading else ""
        return self.to_line(), confidence, self.path, self.error

    def to_line(self) -> str:
        """The text on one line."""
        return " ".join(self.reading.text.split("\n")) if self.reading else ""

    def to_named_line(self) -> str:
        """Text, confidence and file, as a line of text."""
        confidence = self.reading.confidence if self.reading else 0.0
        return f"{self.to_line()}  {confidence:7.2%}  {on_one_line(self.path)}"


def read_files(
    model: Model,
    paths: Iterable[str | NamedBytes],
    min_confidence: float = 0.0,
    annotated_dir: Path | None = None,
    smallest: float = SMALLEST,
    jobs: int = 1,
) -> Iterator[FileReading]:
    """Reads pictures of numbers.

    Args:
        model: The model, as for `as_pipeline`.
        paths: The files.
        min_confidence: As for `read`.
        annotated_dir: Where to write each picture with its boxes, under its
            name with `.png`; repeated names are numbered.
        smallest: As for `read`.
        jobs: Threads that read the pictures.

    Yields:
        One answer per file, in order; an error if it cannot be read.

    Raises:
        ModelError: The model fails, which is no fault of the pictures.
        WriteError: An annotated picture cannot be written.
    """
    pipeline = as_pipeline(model)
    used: set[Path] = set()

    def answer(path: str | NamedBytes) -> tuple[str | NamedBytes, FileReading]:
        try:
            return path, FileReading(str(path), read(path, pipeline, min_confidence, smallest))
        except ModelError:
            raise
        except DigitNetError as error:
            return path, FileReading(str(path), error=str(error))

    for path, answered in in_order(answer, paths, jobs):
        if annotated_dir and answered.reading:
            target = _free_name(annotated_dir, Path(str(path)).stem, used)
            with atomic_write(target) as temporary:
                annotate(path, answered.reading).save(temporary, "PNG")
        yield answered


def _free_name(folder: Path, stem: str, used: set[Path]) -> Path:
    """The first of `stem.png`, `stem-2.png` and so on that is not used yet."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    free = next(path for name in names if (path := folder / f"{name}.png") not in used)
    used.add(free)
    return free


def on_one_line(name: str) -> str:
    """A file's name without line breaks and terminal codes."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda code: repr(code[0])[1:-1], name)
