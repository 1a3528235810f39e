"""Trained models as one thing: a `Classifier` from images to probabilities."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_digitnet import environment, runtimes, serving
from keras_digitnet.artifacts import RunFolder, expanded, newest_version, preset_dir, read_json
from keras_digitnet.config import PRESETS
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.images import read_image
from keras_digitnet.normalization import normalize_digit

_OPEN = {
    ".keras": runtimes.open_keras,
    ".onnx": runtimes.open_onnx,
    ".tflite": runtimes.open_litert,
    ".xml": runtimes.open_openvino,
}
_EXPECTED = (
    f"one of the presets {', '.join(PRESETS)}, the folder of a run, a file that ends in "
    f"{', '.join(_OPEN)}, the folder of a SavedModel, or the address of a served model"
)
# How far a row of probabilities may add up to something else than 1.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of N images.

    Attributes:
        labels: `(N,)` int64, the index of the most probable class.
        probabilities: `(N, C)` float32.
    """

    labels: np.ndarray
    probabilities: np.ndarray


class Classifier:
    """A trained model, wherever it runs.

    Attributes:
        classes: The C names; a label is an index into them. Numbers from 0 on
            where the model came without names.
        named: Whether it came with names.
    """

    def __init__(self, runtime: runtimes.Runtime, classes: tuple[str, ...] | None = None) -> None:
        self._runtime = runtime
        self.named = classes is not None
        self.classes = classes or tuple(str(label) for label in range(runtime.num_classes))

    def predict(self, images: np.ndarray, batch_size: int = 256) -> Predictions:
        """Reads digits in MNIST's form: light on dark, centred.

        Args:
            images: `(N, 28, 28)` or `(N, 28, 28, 1)` uint8, any N from 0 up.
            batch_size: Images that are computed at a time.

        Raises:
            DigitNetError: The images have another shape or dtype, or a server
                does not answer.
        """
        _require_size(batch_size)
        try:
            images = np.asarray(images)
        except ValueError as error:
            raise DigitNetError(f"images: expected an array; received: {error}") from None
        shaped = images.ndim in (3, 4) and images.shape[1:] in ((28, 28), (28, 28, 1))
        if not shaped or images.dtype != np.uint8:
            raise DigitNetError(
                "images: expected uint8 of shape (N, 28, 28) or (N, 28, 28, 1); "
                f"received: {images.dtype} {images.shape}."
            )
        images = images.reshape(-1, 28, 28, 1)
        labels = np.zeros(len(images), np.int64)
        probabilities = np.zeros((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            probabilities[batch], labels[batch] = self._predict_batch(images[batch])
        return Predictions(labels, probabilities)

    def _predict_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the runtime answers, if it is an answer."""
        name = self._runtime.name
        try:
            probabilities, labels = self._runtime.predict_batch(images)
        except DigitNetError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            raise DigitNetError(
                f"{name}: expected it to compute {len(images)} images; "
                f"received: {first_line(error)}"
            ) from error
        expected = (len(images), len(self.classes))
        if probabilities.shape != expected or labels.shape != expected[:1]:
            raise DigitNetError(
                f"{name}: expected probabilities of shape {expected} and label of shape "
                f"{expected[:1]}; received: {probabilities.shape} and {labels.shape}."
            )
        with np.errstate(all="ignore"):
            lowest, off = probabilities.min(), np.abs(probabilities.sum(axis=1) - 1).max()
        if not (lowest >= 0 and off <= _SUM_TOLERANCE):  # nor if one of them is NaN
            raise DigitNetError(
                f"{name}: expected probabilities, 0 or more, of which each row adds up to 1; "
                f"received: a lowest of {lowest:g}, and sums that are off by up to {off:g}. "
                "Train or fetch the model again."
            )
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise DigitNetError(
                f"{name}: expected labels from 0 to {len(self.classes) - 1}; "
                f"received: {labels.min()} to {labels.max()}."
            )
        return probabilities, labels

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raises DigitNetError unless a data set's classes are the model's own.

        A model that came without names is only asked for their number.
        """
        fit = classes == self.classes if self.named else len(classes) == len(self.classes)
        if not fit:
            raise DigitNetError(
                f"classes: expected the model's {len(self.classes)} classes "
                f"({', '.join(self.classes)}); received: {', '.join(classes)}."
            )


def average(members: Sequence[Classifier]) -> Classifier:
    """An ensemble: one classifier whose probabilities are the mean of its members'.

    One member alone stays what it is.

    Raises:
        DigitNetError: The members know different classes.
    """
    named = next((member for member in members if member.named), members[0])
    for member in members:
        member.require_classes(named.classes)
    if len(members) == 1:
        return named

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answers = [member.predict(images, len(images)).probabilities for member in members]
        probabilities = np.mean(answers, axis=0)
        return probabilities, probabilities.argmax(axis=1)

    name = f"ensemble of {len(members)}"
    runtime = runtimes.Runtime(name, predict_batch, len(named.classes))
    return Classifier(runtime, named.classes if named.named else None)


def _require_size(batch_size: int) -> None:
    if batch_size < 1:
        raise DigitNetError(f"batch_size: expected 1 or more; received: {batch_size}.")


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
        """Without the error, which is none where there is a label."""
        return {"file": self.path, "label": self.label, "confidence": self.confidence}

    def to_row(self) -> tuple[str, str, str]:
        """Label, confidence, file."""
        return self.label, f"{self.confidence:.6f}", self.path

    def to_line(self) -> str:
        """The same for people."""
        return f"{self.label}  {self.confidence:7.2%}  {self.path}"


def predict_files(
    classifier: Classifier, paths: Iterable[str], raw: bool = False, batch_size: int = 256
) -> Iterator[FilePrediction]:
    """Reads pictures of one digit each, in their order, `batch_size` at a time in memory.

    A file that cannot be read gets an error in its place. With `raw` the
    pictures are in MNIST's form already, whatever they look like, and are only
    resized.
    """
    _require_size(batch_size)
    paths = iter(paths)
    while group := list(itertools.islice(paths, batch_size)):
        images: list[np.ndarray] = []
        errors: list[str] = []
        for path in group:
            try:
                images.append(read_image(path)[0] if raw else normalize_digit(path))
                errors.append("")
            except DigitNetError as error:
                errors.append(str(error))
        answers = classifier.predict(np.array(images, np.uint8).reshape(-1, 28, 28))
        found = zip(answers.labels, answers.probabilities.max(axis=1), strict=True)
        for path, error_text in zip(group, errors, strict=True):
            if error_text:
                yield FilePrediction(path, error=error_text)
            else:
                label, confidence = next(found)
                yield FilePrediction(path, classifier.classes[label], float(confidence))


def load(where: str | Path, backend: str | None = None) -> Classifier:
    """Loads a trained model from wherever it is.

    The names of the classes come from the `config.json` that lies beside a
    file and inside a SavedModel.

    Args:
        where: A preset's name, such as `base`, for the model that comes with
            the package; the folder of a run; a `.keras`, `.onnx`, `.tflite`
            or OpenVINO `.xml` file; the folder of a SavedModel, or its parent
            for the newest version; or the address of a model that TF Serving
            serves, `http://localhost:8501/v1/models/digitnet`.
        backend: Keras's backend, for a preset and for what Keras runs; else
            `KERAS_BACKEND`, as it was when the package was imported, names
            it. If neither does, a preset runs in ONNX Runtime, and a `.keras`
            file on what Keras runs on, or else on TensorFlow.

    Raises:
        DigitNetError: There is no such model, it is no digit reader, or what
            runs it is not installed.
    """
    if serving.is_address(str(where)):
        _refuse_backend(where, backend)
        return Classifier(serving.open_server(str(where)))
    path = _find(where, in_keras=bool(backend or environment.NAMED_BACKEND))
    if path.is_dir():
        _refuse_backend(where, backend)
        runtime = runtimes.open_saved_model(path)
        return Classifier(runtime, class_names(path / "assets.extra", runtime.num_classes))
    if path.suffix != ".keras":
        _refuse_backend(where, backend)
    elif backend:
        environment.select_backend(backend)
    runtime = _OPEN[path.suffix](path)
    return Classifier(runtime, class_names(path.parent, runtime.num_classes))


def find_keras_file(where: str | Path) -> Path:
    """The `.keras` file of a preset or run, or `where` itself.

    Raises:
        DigitNetError: There is none.
    """
    if not serving.is_address(str(where)):
        path = _find(where, in_keras=True)
        if path.suffix == ".keras":
            return path
    raise DigitNetError(
        f"model: expected a preset, the folder of a run or a .keras file; received: {where}."
    )


def _find(where: str | Path, in_keras: bool) -> Path:
    """The file or the folder of a SavedModel's version that `where` means.

    A preset is its `.keras` file where Keras runs it, else its ONNX file.
    """
    if where in PRESETS:
        return _existing(preset_dir(str(where)) / ("model.keras" if in_keras else "model.onnx"))
    path = expanded(where)
    if path.is_dir():
        run = RunFolder(path)
        if run.model_path.is_file():
            return run.model_path
        if version_dir := newest_version(path):
            return version_dir
    elif path.suffix in _OPEN:
        return _existing(path)
    raise DigitNetError(
        f"model: expected {_EXPECTED}; received: {where}, "
        f"{'which is none of these' if path.exists() else 'which does not exist'}."
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DigitNetError(f"model: expected a file; received: {path}, which does not exist.")
    return path


def _refuse_backend(where: str | Path, backend: str | None) -> None:
    if backend:
        raise DigitNetError(
            f"backend: expected none for {where}, which Keras does not run; "
            f"received: {backend}. Leave it out."
        )


def class_names(folder: Path, count: int) -> tuple[str, ...] | None:
    """The names in a folder's `config.json`; `None` where it has none.

    Raises:
        DigitNetError: They are not `count` names.
    """
    config_path = folder / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if not isinstance(config, dict) or "classes" not in config:
        return None  # or somebody else's
    names = config["classes"]
    if not isinstance(names, list) or len(names) != count:
        raise DigitNetError(
            f"{config_path}: expected the {count} names of the model's classes; received: {names}."
        )
    return tuple(map(str, names))
