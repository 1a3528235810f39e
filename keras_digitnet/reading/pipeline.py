"""The models that read together: one finds digits, one or two classify them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.finding import Character, Reader
from keras_digitnet.reading.inference import Classifier, load, load_classifier

# The shipped models that read together by default.
READER, CLASSIFIER = "reader", "base"
# The weight of the classifier's log probabilities relative to the reader's. Right with 0.15, 0.2
# and 0.25: tuned cheques 85.0, 85.4 and 85.2 %, lines of MNIST's validation digits 96.7, 97.0 and
# 97.0 %, semeion 96.2, 96.4 and 96.6 %, optdigits 98.2, 97.8 and 97.8 %.
_WEIGHT = 0.2
_LEAST = 1e-4  # a floor of the probabilities, so that neither model has a veto


@dataclass(frozen=True)
class FoundDigit:
    """A digit that has been found, but not classified.

    Attributes:
        image: `(28, 28)` uint8, in MNIST's form.
        character: The reader's answer; `None` for a picture that was in MNIST's
            form already.
    """

    image: np.ndarray
    character: Character | None = None

    @property
    def presence(self) -> float:
        """The probability that there is a digit."""
        return self.character.presence if self.character else 1.0


@dataclass(frozen=True)
class Pipeline:
    """The models that read pictures together.

    One finds the digits; it, a classifier or both classify them.

    Attributes:
        reader: Finds them; with `None` all ink of a picture is one character.
        classifier: Classifies them in MNIST's form; with `None` the reader does.
        together: Whether both classify them, or the classifier alone.
    """

    reader: Reader | None
    classifier: Classifier | None
    together: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        model = self.classifier or self.reader
        assert model is not None
        return model.classes

    def classify(self, found: Sequence["FoundDigit"]) -> np.ndarray:
        """The class probabilities of digits that were found, `(N, C)` float32."""
        answers = np.zeros((len(found), len(self.classes)), np.float32)
        if self.classifier is not None and found:
            answers = self.classifier.predict(
                np.stack([each.image for each in found])
            ).probabilities
        for row, each in enumerate(found):
            if each.character is None:
                continue  # was in MNIST's form, so only the classifier knows it
            if self.classifier is None:
                answers[row] = each.character.probabilities
            elif self.together:
                answers[row] = _combined(each.character.probabilities, answers[row])
        return answers


# What `as_pipeline` completes.
Model = Classifier | Reader | Pipeline | str | Path | None


def _combined(of_reader: np.ndarray, of_classifier: np.ndarray) -> np.ndarray:
    """`(C,)` probabilities: the product of both, the classifier's to the power of `_WEIGHT`."""
    scores = np.log(of_reader + _LEAST) + _WEIGHT * np.log(of_classifier + _LEAST)
    product = np.exp(scores - scores.max())
    return product / product.sum()


def as_pipeline(
    model: Model = None,
    reader: Reader | None = None,
    backend: str | None = None,
    threads: int | None = None,
) -> Pipeline:
    """Completes a model to a pipeline that can read pictures.

    Args:
        model: A reader; a classifier, for the digits that a reader
            finds; the name, path or address of either, as for `load`, which is
            loaded anew in each call; `None` for the shipped reader and `base`
            together; or a pipeline.
        reader: Finds the digits for a classifier; by default the shipped one,
            if the classes are the ten digits.
        backend: As for `load`, for the models loaded here.
        threads: As for `load`, for the models loaded here.

    Raises:
        DigitNetError: The classes differ, or `model` is a reader and another
            one is given.
    """
    if isinstance(model, str | Path):
        model = load(model, backend, threads)
    if isinstance(model, Pipeline):
        return model
    if isinstance(model, Reader):
        if reader is not None:
            raise DigitNetError("reader: expected none beside a model that is a reader itself.")
        return Pipeline(model, None)
    if reader is None and (model is None or model.classes == tuple("0123456789")):
        reader = _shipped_reader(backend, threads)
    if model is None:
        return Pipeline(reader, _shipped_classifier(backend, threads), together=True)
    if reader is not None and reader.named and model.named:
        model.require_classes(reader.classes)
    return Pipeline(reader, model)


@functools.cache  # otherwise each call of `read` would load it
def _shipped_reader(backend: str | None, threads: int | None) -> Reader:
    reader = load(READER, backend, threads)
    assert isinstance(reader, Reader)
    return reader


@functools.cache
def _shipped_classifier(backend: str | None, threads: int | None) -> Classifier:
    # A second pool of threads, which wait busily, would compete with the reader's.
    return load_classifier(CLASSIFIER, backend, threads or 1)
