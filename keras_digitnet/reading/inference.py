"""Loads trained models in any format: as a `Classifier` of digits or a `Reader` that finds them."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet import environment, serving
from keras_digitnet.artifacts import (
    RunFolder,
    class_names,
    config_dir,
    expanded,
    newest_version,
    preset_dir,
    read_json,
)
from keras_digitnet.config import IMAGE_SHAPE, PRESETS, READERS
from keras_digitnet.errors import (
    DigitNetError,
    ModelError,
    did_you_mean,
    first_line,
    without_credentials,
)
from keras_digitnet.formats import BY_SUFFIX, EXPORTED, SAVED_MODEL
from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.reading.finding import LoadedModel, Reader

# Some runtimes, such as OpenVINO, deadlock if several threads start them at once.
_open_lock = threading.Lock()
_EXPECTED = (
    f"one of the presets {', '.join(PRESETS)}, the folder of a run or of exports, a file that ends "
    f"in {', '.join(BY_SUFFIX)}, the folder of a SavedModel, or the address of a served model"
)
# How much the sum of a row of probabilities may differ from 1.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for N images.

    Attributes:
        labels: `(N,)` int64, the index of the most probable class.
        probabilities: `(N, C)` float32.
    """

    labels: np.ndarray
    probabilities: np.ndarray


class Classifier(LoadedModel):
    """A trained model that classifies images of single digits, in any format.

    It is thread-safe. Forked processes may use it too, unless it runs in Keras or
    TensorFlow, where they get an error. It cannot be pickled or copied: load it
    by name in each worker process.

    Attributes:
        classes: The C class names; a label is an index into them. Numbers from
            0 on if the model has no class names.
        named: Whether the model has class names.
    """

    def predict(self, images: np.ndarray, batch_size: int = 256) -> Predictions:
        """Classifies digits in MNIST's form: light on dark, centred.

        Args:
            images: `(N, 28, 28)` or `(N, 28, 28, 1)` uint8; N may be 0.
            batch_size: Images that are computed at a time.

        Raises:
            DigitNetError: The images have another shape or dtype, or
                `batch_size` is less than 1.
            ModelError: The model fails or returns invalid outputs.
        """
        require_size(batch_size)
        try:
            images = np.asarray(images)
        except ValueError as error:
            raise DigitNetError(f"images: expected an array; received: {error}") from None
        shaped = images.shape[1:] in (IMAGE_SHAPE[:2], IMAGE_SHAPE)
        if not shaped or images.dtype != np.uint8:
            raise DigitNetError(
                "images: expected uint8 of shape (N, 28, 28) or (N, 28, 28, 1); "
                f"received: {images.dtype} {images.shape}."
            )
        images = images.reshape(-1, *IMAGE_SHAPE)
        labels = np.zeros(len(images), np.int64)
        probabilities = np.zeros((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            probabilities[batch], labels[batch] = self._predict_batch(images[batch])
        return Predictions(labels, probabilities)

    def _predict_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The validated outputs of the runtime: probabilities and labels."""
        name = self._runtime.name
        try:
            probabilities, labels = self._runtime.predict_batch(images)
        except DigitNetError:
            raise
        except Exception as error:  # runtimes raise exceptions of any type
            raise ModelError(
                f"{name}: expected it to compute {len(images)} images; "
                f"received: {first_line(error)}"
            ) from error
        expected = (len(images), len(self.classes))
        if probabilities.shape != expected or labels.shape != expected[:1]:
            raise ModelError(
                f"{name}: expected probabilities of shape {expected} and label of shape "
                f"{expected[:1]}; received: {probabilities.shape} and {labels.shape}."
            )
        with np.errstate(all="ignore"):
            lowest, off = probabilities.min(), np.abs(probabilities.sum(axis=1) - 1).max()
        if not (lowest >= 0 and off <= _SUM_TOLERANCE):  # also true for NaN
            raise ModelError(
                f"{name}: expected probabilities of at least 0 that sum to 1 in each row; "
                f"received: a minimum of {lowest:g}, and sums that are off by up to {off:g}. "
                "Train or fetch the model again."
            )
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise ModelError(
                f"{name}: expected labels from 0 to {len(self.classes) - 1}; "
                f"received: {labels.min()} to {labels.max()}."
            )
        return probabilities, labels


def average(models: Sequence[Classifier | Reader]) -> Classifier:
    """An ensemble: a classifier whose probabilities are the mean of its members'.

    A single classifier is returned as it is.

    Raises:
        DigitNetError: There is no member, the members have different classes, or
            one is a reader.
    """
    if not models:
        raise DigitNetError("models: expected one or more; received: none.")
    members = [model for model in models if isinstance(model, Classifier)]
    if len(members) < len(models):
        raise DigitNetError(
            "models: expected classifiers to average; received: a reader among them. Use it alone."
        )
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
    runtime = Runtime(name, predict_batch, len(named.classes))
    return Classifier(runtime, named.classes if named.named else None)


def require_size(batch_size: int) -> None:
    """Raises DigitNetError for a batch size below 1."""
    if batch_size < 1:
        raise DigitNetError(f"batch_size: expected 1 or more; received: {batch_size}.")


def load_classifier(
    where: str | Path, backend: str | None = None, threads: int | None = None
) -> Classifier:
    """Loads a classifier; the arguments are those of `load`.

    Raises:
        DigitNetError: As for `load`, or the model is a reader.
    """
    model = load(where, backend, threads)
    if isinstance(model, Reader):
        raise DigitNetError(
            "model: expected a classifier of single digits; received: "
            f"{without_credentials(where)}, a reader. Use it with: keras-digitnet read"
        )
    return model


def load(
    where: str | Path, backend: str | None = None, threads: int | None = None
) -> Classifier | Reader:
    """Loads a trained model in any format.

    The class names are read from the `config.json` beside a file or inside a
    SavedModel.

    Args:
        where: The name of a preset, such as `base`, for a shipped model; the
            folder of a run; a `.keras`, `.onnx`, `.tflite` or OpenVINO `.xml`
            file; the folder of a SavedModel, or its parent for the newest
            version; a folder of exports, for the first that exists of ONNX,
            SavedModel, LiteRT, OpenVINO and int8; or the URL of a model on TF
            Serving (`http://localhost:8501/v1/models/digitnet`) or on a server
            of the V2 protocol such as Triton
            (`http://localhost:8000/v2/models/digitnet`).
        backend: The Keras backend, for presets and `.keras` files. The default
            is `KERAS_BACKEND` as it was when the package was imported. Without
            either, a preset runs in ONNX Runtime, and a `.keras` file on the
            current backend if Keras is imported, else that of `keras.json`,
            else TensorFlow.
        threads: Threads per call in ONNX Runtime and LiteRT; by default one
            per processor. 1 is best if several threads or processes call
            models at the same time.

    Returns:
        A `Classifier`, or a `Reader` for a model such as `reader`.

    Raises:
        DigitNetError: There is no such model, it is neither a classifier nor a
            reader, or its runtime is not installed.
    """
    path = find_model(where, backend)
    if path is None:
        return _model(serving.open_server(str(where)), None)
    form = SAVED_MODEL if path.is_dir() else BY_SUFFIX[path.suffix]
    with _open_lock:
        if backend:
            environment.select_backend(backend)
        return _model(form.open(path, threads), config_dir(path))


def find_model(where: str | Path, backend: str | None = None) -> Path | None:
    """The file, or folder of a SavedModel's version, that `load` opens; `None` for a server.

    Opens nothing, so that a mistyped name is reported at once.

    Raises:
        DigitNetError: There is no such model, or no such backend for it.
    """
    if serving.is_address(str(where)):
        _refuse_backend(where, backend)
        serving.require_address(str(where))
        return None
    path = _find(where, in_keras=bool(backend or environment.REQUESTED_BACKEND))
    if path.is_dir() or path.suffix != ".keras":
        _refuse_backend(where, backend)
    elif backend or "keras" not in sys.modules:
        environment.set_backend(backend)
    return path


def is_recorded_reader(path: Path | None) -> bool | None:
    """Whether a model is a reader, by the `config.json` of its run; `None` if that is unknown.

    Args:
        path: As `find_model` returns it.
    """
    config_path = config_dir(path) / "config.json" if path else None
    if config_path is None or not config_path.is_file():
        return None
    try:
        return read_json(config_path)["train"]["preset"] in READERS
    except (DigitNetError, KeyError, TypeError):  # of exports, or of another program
        return None


def _model(runtime: Runtime, names_in: Path | None) -> Classifier | Reader:
    """The classifier or reader of a runtime, with the class names found in a folder."""
    names = class_names(names_in, runtime.num_classes) if names_in else None
    return Reader(runtime, names) if runtime.is_reader else Classifier(runtime, names)


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
        f"model: expected a preset, the folder of a run or a .keras file; "
        f"received: {without_credentials(where)}."
    )


def _find(where: str | Path, in_keras: bool) -> Path:
    """The file, or folder of a SavedModel's version, that `where` names.

    A preset's `.keras` file if Keras runs it, otherwise its ONNX file.
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
        for exported in (path / form.file for form in EXPORTED):
            if exported.is_file():
                return exported
            if exported.is_dir() and (version_dir := newest_version(exported)):
                return version_dir
    elif path.suffix in BY_SUFFIX:
        return _existing(path)
    raise DigitNetError(
        f"model: expected {_EXPECTED}; received: {without_credentials(where)}, "
        f"{'which is none of these' if path.exists() else 'which does not exist'}."
        + did_you_mean(where, PRESETS)
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DigitNetError(f"model: expected a file; received: {path}, which does not exist.")
    return path


def _refuse_backend(where: str | Path, backend: str | None) -> None:
    if backend:
        raise DigitNetError(
            f"backend: expected none for {without_credentials(where)}, which Keras does not run; "
            f"received: {backend}. Omit it."
        )
