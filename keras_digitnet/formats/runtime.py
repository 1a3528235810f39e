"""A model that is opened, whatever runs it, and what the modules of this folder share.

What comes out is the same whatever opened it: batches of images to probabilities and labels.
Every file is checked to be a digit reader before it reads anything.
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

MOST_CLASSES = 10_000
# Of one model, where each computes for one thread at a time: more take memory and no less time.
MOST_WORKERS = 4

Compute = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Shape = tuple[int | None, ...]
Signature = Mapping[str, tuple[str, Shape]]

IMAGES: tuple[str, Shape] = ("uint8", (None, *IMAGE_SHAPE))
PAGES: tuple[str, Shape] = ("uint8", (None, None, None, 1))


# What a classifier and a reader give, by name; see `Runtime`.
CLASSIFIER_OUTPUTS = ("probabilities", "label")
READER_OUTPUTS = ("presence", "boxes", "probabilities")


@dataclass(frozen=True)
class Runtime:
    """An opened model: a classifier of digits, or a reader that finds them.

    Attributes:
        name: What messages call it: a file or an address.
        predict_batch: Images, N at least 1, to the outputs; any number of threads
            may call it at once. A classifier takes
            `(N, 28, 28, 1)` uint8 and gives probabilities `(N, C)` float32 and
            labels `(N,)` integers; a reader takes `(N, H, W, 1)` uint8 and gives
            what `detector.build_detection_model` says.
        num_classes: C.
        outputs: Which of the two it is: their names, in their order.
    """

    name: str
    predict_batch: Compute
    num_classes: int
    outputs: tuple[str, ...] = CLASSIFIER_OUTPUTS

    @property
    def is_reader(self) -> bool:
        return self.outputs == READER_OUTPUTS


def checked_outputs(
    where: object, inputs: Signature, outputs: Signature
) -> tuple[tuple[str, ...], int]:
    """The outputs' names, and the C, of a model whose signature is a classifier's or a reader's.

    Args:
        where: What the message names.
        inputs: Name to dtype and shape; `None` for a size that is open.
        outputs: The same.

    Raises:
        DigitNetError: It is neither's.
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
    if num_classes > MOST_CLASSES:
        raise DigitNetError(
            f"{where}: expected at most {MOST_CLASSES:,} classes; received: {num_classes:,}."
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

    The answers alone do not tell: the ReLU of TensorFlow and OpenVINO makes 0
    of NaN, and any one 0 of -infinity. LiteRT's converter writes the largest
    number there is for infinity.
    """
    for weight in weights:
        if weight.dtype.kind == "f" and not (np.abs(weight) < np.finfo(weight.dtype).max).all():
            raise DigitNetError(
                f"{where}: expected finite weights; received: NaN or infinity among them. "
                "Train or fetch it again."
            )


@contextlib.contextmanager
def loading(path: Path, what: str) -> Iterator[None]:
    """Makes whatever a damaged file raises one message: each program has exceptions of its own."""
    try:
        yield
    except DigitNetError:
        raise
    except Exception as error:
        raise DigitNetError(f"{path}: expected {what}; received: {first_line(error)}") from error


_process_of_backends: int | None = None


def require_process(where: object) -> None:
    """Raises DigitNetError in a fork of the process that opened a model in Keras or TensorFlow.

    What TensorFlow, JAX and torch compute in such a fork never ends.
    """
    global _process_of_backends
    _process_of_backends = _process_of_backends or os.getpid()
    if _process_of_backends != os.getpid():
        raise DigitNetError(
            f"{where}: expected a process that was not forked from one that has opened a model in "
            "Keras or TensorFlow, which would wait forever; received: such a one. Start workers "
            "with multiprocessing's spawn, or use an .onnx, .tflite or OpenVINO .xml file."
        )


def in_turns(first: Compute, another: Callable[[], Compute] | None = None) -> Compute:
    """What threads may call at once, of workers that take one call at a time.

    Args:
        first: A worker.
        another: Makes up to `MOST_WORKERS` of them, where more threads come
            than there are workers; else they wait for the first.
    """
    idle = deque([first])
    free = threading.Semaphore(min(usable_cpus(), MOST_WORKERS) if another else 1)

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
    """The processors that this process may use; more threads would wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
