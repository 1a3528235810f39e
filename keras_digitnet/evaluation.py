"""From probabilities and labels to figures; knows neither models nor files."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError


@dataclass(frozen=True)
class ClassScores:
    """How one class fares.

    Attributes:
        name: The class.
        precision: Share of the answers "this class" that are right.
        recall: Share of the class's images that are found.
        f1: Harmonic mean of the two.
        support: Images of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and how often one was taken for the other, either way."""

    classes: tuple[str, str]
    count: int


@dataclass(frozen=True)
class Report:
    """How well probabilities agree with labels.

    Attributes:
        n: Number of images.
        accuracy: Share whose most probable class is the right one.
        top2_accuracy: Share whose right class is among the two most probable.
        loss: Mean cross-entropy in nats; a probability counts as at least
            float32's epsilon.
        expected_calibration_error: See `calibration_error`.
        per_class: Scores of each class, in the order of the classes.
        confusion_matrix: Counts; a row is a true class, a column an answer.
        most_confused: Pairs of classes, the most often confused first; none
            that never were.
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
        return dataclasses.asdict(self)


def evaluate(probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Report:
    """Compares what a model says with what is so.

    Args:
        probabilities: `(N, C)` float, rows that sum to 1; N at least 1.
        labels: `(N,)` integers, indices of `classes`.
        classes: The C names.

    Raises:
        DigitNetError: The shapes do not fit each other, or a probability is
            not finite.
    """
    from sklearn import metrics

    if probabilities.shape != (len(labels), len(classes)) or len(labels) == 0:
        raise DigitNetError(
            f"expected probabilities of shape ({len(labels)}, {len(classes)}) for as many labels "
            f"and classes, and one label at least; received: {probabilities.shape}."
        )
    if not np.isfinite(probabilities).all():
        raise DigitNetError("expected finite probabilities; received: NaN or infinity.")
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
    """How well lines of characters are read.

    Attributes:
        n: Number of lines.
        accuracy: Share of the lines that are read right as a whole.
        character_error_rate: Characters that must be put in, left out or
            exchanged, as a share of those that are there.
        precision: Share of what was found that is a character: boxes that
            share more than half of their union with one.
        recall: Share of the characters that were found.
    """

    n: int
    accuracy: float
    character_error_rate: float
    precision: float
    recall: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def evaluate_lines(
    answers: Sequence[tuple[int, ...]],
    truths: Sequence[tuple[int, ...]],
    found: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
) -> LinesReport:
    """Compares what a reader says of lines with what they say.

    Args:
        answers: The labels that were read in each line, from left to right.
        truths: The labels that are there.
        found: `(M, 4)` boxes for each line: left, top, right, bottom.
        boxes: `(N, 4)`, where the characters are.
    """
    pairs = list(zip(answers, truths, strict=True))
    matched = [_matched(*each) for each in zip(found, boxes, strict=True)]
    count = sum(map(len, truths))
    return LinesReport(
        n=len(truths),
        accuracy=sum(answer == truth for answer, truth in pairs) / max(len(truths), 1),
        character_error_rate=sum(edits(*pair) for pair in pairs) / max(count, 1),
        precision=sum(matched) / max(sum(map(len, found)), 1),
        recall=sum(matched) / max(count, 1),
    )


def edits(answer: Sequence[int], truth: Sequence[int]) -> int:
    """The fewest insertions, deletions and exchanges from one to the other (Levenshtein)."""
    row = np.arange(len(truth) + 1)
    for label in answer:
        exchanged = row[:-1] + (np.array(truth) != label) if len(truth) else row[:0]
        best = np.concatenate([[row[0] + 1], np.minimum(exchanged, row[1:] + 1)])
        # What is put in costs one more than what stands before it.
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def _matched(found: np.ndarray, boxes: np.ndarray) -> int:
    """How many boxes are found: pairs that share more than half of their union, one to one."""
    low = np.maximum(found[:, None, :2], boxes[None, :, :2])
    high = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (found, boxes)]
    over = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)
    return int((over > 0.5).any(axis=0).sum())


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart.

    The answers are sorted into bins of equal width by their confidence; the
    result is the mean over the bins, weighted by their answers, of
    |accuracy - mean confidence| (Guo et al., arXiv 1706.04599, equation 3).

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
    """The temperature T that makes softmax(logits / T) honest.

    It has the lowest cross-entropy on these images (Guo et al., arXiv
    1706.04599, section 4.2) from a half up. That bound holds where a
    few images, all of them read right, would ask for endless confidence.

    Args:
        logits: `(N, C)` float, of images that the model was not trained on.
        labels: `(N,)` integers.
    """
    from scipy import optimize, special

    def cross_entropy(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    bounds = (np.log(0.5), np.log(100))
    return float(np.exp(optimize.minimize_scalar(cross_entropy, bounds=bounds).x))


def fit_presence(logits: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """The scale and shift that make sigmoid(scale * logit + shift) honest (Platt, 1999).

    Args:
        logits: `(N,)` float.
        present: `(N,)` bool: whether it was there.
    """
    from sklearn.linear_model import LogisticRegression

    if present.all() or not present.any():
        return 1.0, 0.0  # nothing to tell apart
    fitted = LogisticRegression(C=1e6).fit(logits[:, None], present)
    scale = float(fitted.coef_[0, 0])
    # A network that has learned nothing yet is left as it is.
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
