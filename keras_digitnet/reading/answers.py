"""Pictures in files, one after another: an answer or an error for each."""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from keras_digitnet.artifacts import atomic_write
from keras_digitnet.errors import DigitNetError, ModelError
from keras_digitnet.pictures.decoding import read_image
from keras_digitnet.pictures.sources import NamedBytes
from keras_digitnet.reading.finding import SMALLEST, Reader
from keras_digitnet.reading.inference import Classifier, require_size
from keras_digitnet.reading.reader import Found, Reading, Team, annotate, find_digit, read, team

Model = Classifier | Reader | Team | None  # as `team` takes it

T = TypeVar("T")
U = TypeVar("U")


def in_order(function: Callable[[T], U], items: Iterable[T], jobs: int) -> Iterator[U]:
    """What a function makes of each item, in their order, computed in `jobs` threads.

    No more than two items a thread are taken before their turn, so that
    memory does not grow with their number.
    """
    if jobs == 1:
        yield from map(function, items)
        return
    threads = ThreadPoolExecutor(jobs)
    begun: deque[Future[U]] = deque()
    try:
        for item in items:
            begun.append(threads.submit(function, item))
            if len(begun) == 2 * jobs:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class FilePrediction:
    """What a classifier says of one picture.

    Attributes:
        path: The file, as it was named.
        label: The name of the most probable class.
        confidence: Its probability.
        error: Why the file could not be read; it has no label then.
    """

    path: str
    label: str = ""
    confidence: float = 0.0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The file with label and confidence, or with the error; the others are `None`."""
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
        """The same for people."""
        return f"{self.label}  {self.confidence:7.2%}  {self.path}"


def predict_files(
    model: Model,
    paths: Iterable[str | NamedBytes],
    raw: bool = False,
    batch_size: int = 256,
    jobs: int = 1,
) -> Iterator[FilePrediction]:
    """Reads pictures of one digit each, in their order, `batch_size` at a time in memory.

    `jobs` threads find the digits; they are named together.

    A file that cannot be read, or holds no digit or several, gets an error in
    its place. With `raw` the pictures are in MNIST's form already, whatever
    they look like, and are only resized; that takes a classifier.
    """
    require_size(batch_size)
    readers = team(model)

    def find(path: str | NamedBytes) -> tuple[str, Found | None, str]:
        try:
            return str(path), Found(read_image(path)[0]) if raw else find_digit(path, readers), ""
        except ModelError:
            raise
        except DigitNetError as error:
            return str(path), None, str(error)

    found = in_order(find, paths, jobs)
    while group := list(itertools.islice(found, batch_size)):
        named = iter(readers.name([each for _, each, _ in group if each]))
        for path, each, error in group:
            if each is None:
                yield FilePrediction(path, error=error)
            else:
                probabilities = next(named)
                confidence = each.presence * float(probabilities.max())
                label = readers.classes[probabilities.argmax()]
                yield FilePrediction(path, label, confidence)


@dataclass(frozen=True)
class FileReading:
    """What a picture of many says.

    Attributes:
        path: The file, as it was named.
        reading: What it says; none where it could not be read.
        error: Why not.
    """

    path: str
    reading: Reading | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The text and every digit but its picture, or the error; the others are `None`."""
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
        """Text in one line, confidence, file, error."""
        confidence = f"{self.reading.confidence:.6f}" if self.reading else ""
        return self.to_line(), confidence, self.path, self.error

    def to_line(self) -> str:
        """The text in one line."""
        return " ".join(self.reading.text.split("\n")) if self.reading else ""

    def to_named_line(self) -> str:
        """Text, confidence and file for people."""
        confidence = self.reading.confidence if self.reading else 0.0
        return f"{self.to_line()}  {confidence:7.2%}  {self.path}"


def read_files(
    model: Model,
    paths: Iterable[str | NamedBytes],
    min_confidence: float = 0.0,
    annotated_dir: Path | None = None,
    smallest: float = SMALLEST,
    jobs: int = 1,
) -> Iterator[FileReading]:
    """Reads pictures in their order; one that cannot be read gets an error in its place.

    `jobs` threads read them.

    With `annotated_dir`, each is also drawn there with its boxes, under its own
    name with `.png`; a name that comes twice is numbered.

    Raises:
        ModelError: The model fails, which is no fault of the pictures.
    """
    readers = team(model)
    names: Counter[str] = Counter()

    def answer(path: str | NamedBytes) -> tuple[str | NamedBytes, FileReading]:
        try:
            return path, FileReading(str(path), read(path, readers, min_confidence, smallest))
        except ModelError:
            raise
        except DigitNetError as error:
            return path, FileReading(str(path), error=str(error))

    for path, answered in in_order(answer, paths, jobs):
        if annotated_dir and answered.reading:
            name = Path(str(path)).stem
            names[name] += 1
            number = f"-{names[name]}" if names[name] > 1 else ""
            with atomic_write(annotated_dir / f"{name}{number}.png") as temporary:
                annotate(path, answered.reading).save(temporary, "PNG")
        yield answered
