"""Trained models as one thing: a `Classifier` from images to probabilities."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet.artifacts import RunFolder, read_json
from keras_digitnet.errors import DigitNetError, first_line


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
    """A trained model, whatever file it came from.

    Attributes:
        classes: The C names; a label is an index into them.
    """

    def __init__(
        self, predict_batch: Callable[[np.ndarray], np.ndarray], classes: tuple[str, ...]
    ) -> None:
        self._predict_batch = predict_batch
        self.classes = classes

    def predict(self, images: np.ndarray, batch_size: int = 256) -> Predictions:
        """Reads digits in MNIST's form: light on dark, centred.

        Args:
            images: `(N, 28, 28)` or `(N, 28, 28, 1)` uint8, any N from 0 up.
            batch_size: Images that are computed at a time.

        Raises:
            DigitNetError: The images have another shape or dtype.
        """
        images = np.asarray(images)
        shaped = images.ndim in (3, 4) and images.shape[1:] in ((28, 28), (28, 28, 1))
        if not shaped or images.dtype != np.uint8:
            raise DigitNetError(
                "images: expected uint8 of shape (N, 28, 28) or (N, 28, 28, 1); "
                f"received: {images.dtype} {images.shape}."
            )
        images = images.reshape(-1, 28, 28, 1)
        probabilities = np.zeros((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            probabilities[start:stop] = self._predict_batch(images[start:stop])
        return Predictions(probabilities.argmax(axis=1), probabilities)

    def require_classes(self, classes: tuple[str, ...]) -> None:
        """Raises DigitNetError unless a data set's classes are the model's own."""
        if classes != self.classes:
            raise DigitNetError(
                f"data set: expected the model's {len(self.classes)} classes "
                f"({', '.join(self.classes)}); received: {', '.join(classes)}."
            )


def load(where: str | Path) -> Classifier:
    """Loads a trained model: a `.keras` file, or the folder of a run.

    The names of the classes come from `config.json` beside the model, else
    they are numbers from 0 on.

    Raises:
        DigitNetError: There is no such model, or it is no DigitNet.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        path = RunFolder(path).model_path
    if not path.is_file() or path.suffix != ".keras":
        raise DigitNetError(
            f"model: expected a .keras file or the folder of a run; received: {where}, "
            f"{'which is neither' if Path(where).exists() else 'which does not exist'}."
        )
    return _load_keras(path)


def _load_keras(path: Path) -> Classifier:
    import keras

    from keras_digitnet.model import IMAGE_SHAPE, build_inference_model, jit_compile

    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras lets through whatever its parsers raise
        raise DigitNetError(
            f"{path}: expected a .keras model that Keras can load; received: {first_line(error)}"
        ) from error
    inputs = [(tensor.shape, tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
    outputs = [tensor.shape for tensor in getattr(model, "outputs", None) or ()]
    if inputs != [((None, *IMAGE_SHAPE), "uint8")] or [len(shape) for shape in outputs] != [2]:
        raise DigitNetError(
            f"{path}: expected a model from (N, 28, 28, 1) uint8 images to (N, C) logits; "
            f"received: one from {inputs} to {outputs}."
        )
    inference = build_inference_model(model)
    inference.compile(jit_compile=jit_compile())

    def predict_batch(images: np.ndarray) -> np.ndarray:
        return np.asarray(inference.predict_on_batch(images)["probabilities"])

    return Classifier(predict_batch, _class_names(path.with_name("config.json"), outputs[0][1]))


def _class_names(config_path: Path, count: int) -> tuple[str, ...]:
    if not config_path.is_file():
        return tuple(str(label) for label in range(count))
    config = read_json(config_path)
    names = config.get("classes") if isinstance(config, dict) else None
    if not isinstance(names, list) or len(names) != count:
        raise DigitNetError(
            f"{config_path}: expected the {count} names of the model's classes; received: {names}."
        )
    return tuple(map(str, names))
