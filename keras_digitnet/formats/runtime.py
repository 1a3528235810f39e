"""`Runtime`, the interface of an opened model in any format, and helpers that all formats share.

The signature and the weights of every file are checked when it is opened.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet.config import IMAGE_SHAPE
from keras_digitnet.errors import DigitNetError, first_line

MAX_CLASSES = 10_000
# Workers of one model, each of which serves one thread at a time; more take memory and save no
# time.
MAX_WORKERS = 4

Compute = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Shape = tuple[int | None, ...]
Signature = Mapping[str, tuple[str, Shape]]

IMAGES: tuple[str, Shape] = ("uint8", (None, *IMAGE_SHAPE))
PAGES: tuple[str, Shape] = ("uint8", (None, None, None, 1))


# The names of the outputs of a classifier and of a reader; see `Runtime`.
CLASSIFIER_OUTPUTS = ("probabilities", "label")
READER_OUTPUTS = ("presence", "boxes", "probabilities")


@dataclass(frozen=True)
class Runtime:
    """An opened model: a classifier of digits, or a reader that finds them.

    Attributes:
        name: Its name in messages: a file or an address.
        predict_batch: Maps images, N at least 1, to the outputs; thread-safe. A
            classifier takes `(N, 28, 28, 1)` uint8 and returns probabilities
            `(N, C)` float32 and labels `(N,)` integers; a reader takes
            `(N, H, W, 1)` uint8 and returns the outputs of
            `detector.build_detection_model`.
        num_classes: C.
        outputs: The names of the outputs in order: those of a classifier or of a
            reader.
    """

    name: str
    predict_batch: Compute
    num_classes: int
    outputs: tuple[str, ...] = CLASSIFIER_OUTPUTS

    @property
    def is_reader(self) -> bool:
        """Whether the model is a reader."""
        return self.outputs == READER_OUTPUTS


def checked_outputs(
    where: object, inputs: Signature, outputs: Signature
) -> tuple[tuple[str, ...], int]:
    """Checks that a signature is that of a classifier or of a reader.

    Args:
        where: The model's name for messages.
        inputs: Dtype and shape of each input by name; variable sizes are `None`.
        outputs: Dtype and shape of each output by name.

    Returns:
        The names of the outputs in order, and the number of classes.

    Raises:
        DigitNetError: The signature is neither.
    """
    num_classes = (outputs.get("probabilities", ("", ()))[1] or (None,))[-1]
    kinds = {
        CLASSIFIER_OUTPUTS: (IMAGES, _classifier_outputs(num_classes)),
        READER_OUTPUTS: (PAGES, _reader_outputs(num_classes)),
    }
    names = next(
        (k for k, v in kinds.items() if ({"images": v[0]}, v[1]) == (inputs, outputs)), None
    )
    if names is None or not num_classes:
        raise DigitNetError(
            f"{where}: expected a model from images (N, 28, 28, 1) uint8 to probabilities (N, C) "
            "float32 and label (N,) int32, or a reader from images (N, H, W, 1) to presence, boxes "
            f"and probabilities; received: from {_described(inputs)} to {_described(outputs)}."
        )
    if num_classes > MAX_CLASSES:
        raise DigitNetError(
            f"{where}: expected at most {MAX_CLASSES:,} classes; received: {num_classes:,}."
        )
    return names, num_classes


def _classifier_outputs(num_classes: int | None) -> Signature:
    return {"label": ("int32", (None,)), "probabilities": ("float32", (None, num_classes))}


def _reader_outputs(num_classes: int | None) -> Signature:
    cells: Shape = (None, None, None)
    return {
        "presence": ("float32", cells),
        "boxes": ("float32", (*cells, 4)),
        "probabilities": ("float32", (*cells, num_classes)),
    }


def _described(signature: Signature) -> str:
    def size(number: int | None) -> str:
        return "N" if number is None else str(number)

    parts = (
        f"{name} ({', '.join(map(size, shape))}) {dtype}"
        for name, (dtype, shape) in sorted(signature.items())
    )
    return " ".join((", ".join(parts) or "nothing").split())[:300]


def require_finite(where: object, weights: Iterable[np.ndarray]) -> None:
    """Raises DigitNetError for NaN and infinity among the weights.

    The outputs may hide them: the ReLU of TensorFlow and OpenVINO maps NaN to 0,
    and every ReLU maps -infinity to 0. LiteRT's converter replaces infinity by
    the largest finite number, which is refused too.
    """
    for weight in weights:
        if weight.dtype.kind == "f" and not (np.abs(weight) < np.finfo(weight.dtype).max).all():
            raise DigitNetError(
                f"{where}: expected finite weights; received: NaN or infinity among them. "
                "Train or fetch it again."
            )


@contextlib.contextmanager
def loading(path: Path, what: str) -> Iterator[None]:
    """Turns any exception of loading a damaged file into a DigitNetError.

    Args:
        path: The file.
        what: What was expected, for the message.
    """
    try:
        yield
    except DigitNetError:
        raise
    except Exception as error:
        raise DigitNetError(f"{path}: expected {what}; received: {first_line(error)}") from error


_process_of_backends: int | None = None


def require_process(where: object) -> None:
    """Raises DigitNetError in a fork of a process that has opened a model in Keras or TensorFlow.

    In such a fork TensorFlow, JAX and torch would hang.
    """
    global _process_of_backends
    _process_of_backends = _process_of_backends or os.getpid()
    if _process_of_backends != os.getpid():
        raise DigitNetError(
            f"{where}: expected a process that was not forked after a model was opened in Keras "
            "or TensorFlow, since it would hang; received: a fork. Start workers with "
            "multiprocessing's spawn method, or use an .onnx, .tflite or OpenVINO .xml file."
        )


def in_turns(first: Compute, another: Callable[[], Compute] | None = None) -> Compute:
    """Makes workers that are not thread-safe callable from any number of threads.

    Args:
        first: A worker, which takes one call at a time.
        another: Creates further workers, up to `MAX_WORKERS` in all, when all
            are busy; without it, threads wait for the first.
    """
    idle = deque([first])
    free = threading.Semaphore(min(usable_cpus(), MAX_WORKERS) if another else 1)

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with free:
            try:
                worker = idle.pop()
            except IndexError:
                assert another is not None
                worker = another()
            try:
                return worker(images)
            finally:
                idle.append(worker)

    return predict_batch


def usable_cpus() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
