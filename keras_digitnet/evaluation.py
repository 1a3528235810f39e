"""Metrics and calibration, computed from probabilities and labels alone."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class.

    Attributes:
        name: Name of the class.
        precision: Fraction of the predictions of this class that are correct.
        recall: Fraction of the images of this class that are predicted as it.
        f1: Harmonic mean of the two.
        support: Number of images of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and how often they were confused, in either direction.

    Attributes:
        classes: Names of the two classes.
        count: Number of mistakes.
    """

    classes: tuple[str, str]
    count: int


@dataclass(frozen=True)
class Report:
    """The metrics of a classifier on a set of images.

    Attributes:
        n: Number of images.
        accuracy: Fraction of images whose most probable class is correct.
        top2_accuracy: Fraction of images whose true class is among the two most
            probable.
        loss: Mean cross-entropy in nats; probabilities are clipped below at
            float32's epsilon.
        expected_calibration_error: See `calibration_error`.
        per_class: Scores of each class, in the order of the classes.
        confusion_matrix: Counts; a row is a true class, a column a predicted one.
        most_confused: Pairs of classes that were confused, the most frequent
            first.
    """

    n: int
    accuracy: float
    top2_accuracy: float
    loss: float
    expected_calibration_error: float
    per_class: tuple[ClassScores, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    most_confused: tuple[ConfusedPair, ...]

    def to_json(self) -> dict[str, Any]:
        """The metrics as JSON types."""
        return dataclasses.asdict(self)


def evaluate(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Report:
    """Computes the metrics of a classifier.

    Args:
        probabilities: `(N, C)` float; each row sums to 1; N at least 1.
        labels: `(N,)` integers, the true classes as indices of `classes`.
        classes: The C names.

    Raises:
        DigitNetError: The shapes do not match, a label is no index of a class, or
            a probability is not finite.
    """
    from sklearn import metrics

    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.shape != (len(labels), len(classes)) or len(labels) == 0:
        raise DigitNetError(
            f"expected probabilities of shape ({len(labels)}, {len(classes)}) for as many labels "
            f"and classes, and one label at least; received: {probabilities.shape}."
        )
    if not np.isfinite(probabilities).all():
        raise DigitNetError("expected finite probabilities; received: NaN or infinity.")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise DigitNetError(
            f"expected labels from 0 to {len(classes) - 1}; received: {labels.dtype} from "
            f"{labels.min()} to {labels.max()}."
        )
    indices = np.arange(len(classes))
    answers = probabilities.argmax(axis=1)
    top2 = np.argsort(probabilities, axis=1)[:, -2:]
    matrix = metrics.confusion_matrix(labels, answers, labels=indices)
    scores = metrics.precision_recall_fscore_support(
        labels, answers, labels=indices, zero_division=0.0
    )
    return Report(
        n=len(labels),
        accuracy=float((answers == labels).mean()),
        top2_accuracy=float((top2 == labels[:, None]).any(axis=1).mean()),
        loss=_cross_entropy(probabilities, labels),
        expected_calibration_error=calibration_error(probabilities, labels),
        per_class=tuple(
            ClassScores(name, float(precision), float(recall), float(f1), int(support))
            for name, precision, recall, f1, support in zip(classes, *scores, strict=True)
        ),
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in matrix),
        most_confused=_most_confused(matrix, classes),
    )


@dataclass(frozen=True)
class LinesReport:
    """The metrics of a reader on lines of characters.

    Attributes:
        n: Number of lines.
        accuracy: Fraction of the lines that are read without a mistake.
        character_error_rate: Insertions, deletions and substitutions as a
            fraction of the true characters.
        precision: Fraction of the boxes that match a character, with an
            intersection over union above 0.5.
        recall: Fraction of the characters that are matched by a box.
    """

    n: int
    accuracy: float
    character_error_rate: float
    precision: float
    recall: float

    def to_json(self) -> dict[str, Any]:
        """The metrics as JSON types."""
        return dataclasses.asdict(self)


def evaluate_lines(
    answers: Sequence[tuple[int, ...]],
    truths: Sequence[tuple[int, ...]],
    found: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
) -> LinesReport:
    """Computes the metrics of a reader.

    Args:
        answers: The predicted labels of each line, from left to right.
        truths: The true labels of each line.
        found: The predicted boxes of each line, `(M, 4)`: left, top, right and
            bottom, in pixels.
        boxes: The true boxes of each line, `(N, 4)`.
    """
    pairs = list(zip(answers, truths, strict=True))
    matched = [_matched(*each) for each in zip(found, boxes, strict=True)]
    count = sum(map(len, truths))
    return LinesReport(
        n=len(truths),
        accuracy=sum(answer == truth for answer, truth in pairs) / max(len(truths), 1),
        character_error_rate=sum(edit_distance(*pair) for pair in pairs) / max(count, 1),
        precision=sum(matched) / max(sum(map(len, found)), 1),
        recall=sum(matched) / max(count, 1),
    )


def edit_distance(answer: Sequence[int], truth: Sequence[int]) -> int:
    """The Levenshtein distance: insertions, deletions and substitutions."""
    row = np.arange(len(truth) + 1)
    for label in answer:
        exchanged = row[:-1] + (np.array(truth) != label) if len(truth) else row[:0]
        best = np.concatenate([[row[0] + 1], np.minimum(exchanged, row[1:] + 1)])
        # An insertion costs one more than the entry to its left.
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def _matched(found: np.ndarray, boxes: np.ndarray) -> int:
    """How many true boxes have a predicted box of an intersection over union above 0.5."""
    low = np.maximum(found[:, None, :2], boxes[None, :, :2])
    high = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (found, boxes)]
    over = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return int((over > 0.5).any(axis=0).sum())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error (Guo et al., arXiv 1706.04599, equation 3).

    Predictions are put into bins of equal width by confidence; the result is
    the mean of |accuracy - mean confidence| over the bins, weighted by their
    number of predictions.

    Args:
        probabilities: `(N, C)` float.
        labels: `(N,)` integers.
        bins: Number of bins over (0, 1].
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence.astype(float), minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature T that calibrates softmax(logits / T).

    It minimizes the cross-entropy (Guo et al., arXiv 1706.04599, section 4.2)
    and is at least 0.5: on a few images that are all classified correctly, the
    minimum would be at 0. Without images it is 1.

    Args:
        logits: `(N, C)` float, of images that the model was not trained on.
        labels: `(N,)` integers.
    """
    from scipy import optimize, special

    if not len(labels):
        return 1.0

    def cross_entropy(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    bounds = (np.log(0.5), np.log(100))
    return float(np.exp(optimize.minimize_scalar(cross_entropy, bounds=bounds).x))


def fit_presence(logits: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Fits scale and shift of sigmoid(scale * logit + shift): Platt scaling (Platt, 1999).

    Args:
        logits: `(N,)` float.
        present: `(N,)` bool, whether a character is there.
    """
    from sklearn.linear_model import LogisticRegression

    if present.all() or not present.any():
        return 1.0, 0.0  # only one class to fit
    fitted = LogisticRegression(C=1e6).fit(logits[:, None], present)
    scale = float(fitted.coef_[0, 0])
    # Keep an untrained network, whose fitted scale may be negative, unchanged.
    return (scale, float(fitted.intercept_[0])) if scale > 0 else (1.0, 0.0)


def _cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    of_truth = probabilities[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float32).eps)).mean())


def _most_confused(matrix: np.ndarray, classes: tuple[str, ...]) -> tuple[ConfusedPair, ...]:
    either_way = np.triu(matrix + matrix.T, k=1)
    order = np.argsort(-either_way, axis=None, kind="stable")
    pairs = (np.unravel_index(position, matrix.shape) for position in order)
    return tuple(
        ConfusedPair((classes[first], classes[second]), int(either_way[first, second]))
        for first, second in pairs
        if either_way[first, second] > 0
    )
