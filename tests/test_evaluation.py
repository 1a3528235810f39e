import json

import numpy as np
import pytest

from keras_digitnet.errors import DigitNetError
from keras_digitnet.evaluation import calibration_error, evaluate, fit_temperature

CLASSES = ("1", "7", "9")
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],  # correct
        [0.1, 0.6, 0.3],  # correct
        [0.1, 0.2, 0.7],  # a 7 read as 9
        [0.0, 0.6, 0.4],  # a 9 read as 7
        [0.7, 0.2, 0.1],  # a 9 read as 1: not even second
    ],
    np.float32,
)
LABELS = np.array([0, 1, 1, 2, 2])


def test_metrics_computed_by_hand() -> None:
    report = evaluate(PROBABILITIES, LABELS, CLASSES)
    assert report.n == 5
    assert report.accuracy == pytest.approx(2 / 5)
    assert report.top2_accuracy == pytest.approx(4 / 5)
    assert report.loss == pytest.approx(-np.log([0.8, 0.6, 0.2, 0.4, 0.1]).mean(), rel=1e-5)
    assert report.confusion_matrix == ((1, 0, 0), (0, 1, 1), (1, 1, 0))
    one, seven, nine = report.per_class
    assert (one.name, one.precision, one.recall, one.support) == ("1", 0.5, 1.0, 1)
    assert (seven.precision, seven.recall, seven.f1) == (0.5, 0.5, 0.5)
    assert (nine.precision, nine.recall, nine.support) == (0.0, 0.0, 2)
    assert [(pair.classes, pair.count) for pair in report.most_confused] == [
        (("7", "9"), 2),
        (("1", "9"), 1),
    ]


def test_calibration_error_by_hand() -> None:
    """Two bins: confidence 0.6 with accuracy 0.5, confidence 0.9 with accuracy 1."""
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    labels = np.array([0, 1, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert calibration_error(np.eye(2), np.array([0, 1])) == 0


def test_the_temperature_calibrates_an_overconfident_model() -> None:
    """Labels are sampled from calibrated probabilities; the model has 1.6 times their logits."""
    random = np.random.default_rng(0)
    honest = 2 * random.normal(size=(20_000, 4))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(1.6 * honest, labels) == pytest.approx(1.6, rel=0.05)


def test_the_temperature_is_bounded_on_a_few_correct_images() -> None:
    assert fit_temperature(10 * np.eye(3), np.arange(3)) == pytest.approx(0.5, rel=1e-3)


def test_the_loss_of_a_certain_mistake_is_finite() -> None:
    report = evaluate(np.eye(3)[[1, 1, 1]], np.array([0, 1, 2]), CLASSES)
    assert 10 < report.loss < 11


def test_the_report_is_json() -> None:
    report = evaluate(PROBABILITIES, LABELS, CLASSES)
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {"accuracy", "loss", "top2_accuracy", "n"} <= values.keys()
    assert values["most_confused"][0] == {"classes": ["7", "9"], "count": 2}


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (PROBABILITIES[:, :2], LABELS),
        (PROBABILITIES[:4], LABELS),
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.full((5, 3), np.nan), LABELS),
        (PROBABILITIES, LABELS - 1),
        (PROBABILITIES, LABELS + 1),
    ],
    ids=["classes", "rows", "nothing", "NaN", "negative labels", "labels beyond the classes"],
)
def test_mismatching_shapes_are_refused(probabilities: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(DigitNetError, match="expected .* received: "):
        evaluate(probabilities, labels, CLASSES)
