from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from keras_digitnet.data import Dataset
from keras_digitnet.plots import (
    plot_confusion_matrix,
    plot_curves,
    plot_lines,
    plot_mistakes,
    save_figure,
)


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}  # type: ignore[attr-defined]


def test_curves_name_their_axes_and_mark_the_kept_epoch() -> None:
    losses = (0.5, 0.2, 0.3)
    history = [
        {"loss": loss, "accuracy": 1 - loss, "val_loss": loss, "val_accuracy": 1 - loss}
        for loss in losses
    ]
    figure = plot_curves(history, 2, "DigitNet on digits")
    assert {"DigitNet on digits", "epoch", "accuracy (%)", "kept: epoch 2"} <= texts(figure)
    assert {"training", "validation"} <= texts(figure)
    accuracy = figure.axes[1].get_lines()[1]
    assert np.allclose(accuracy.get_ydata(), [50, 80, 70])


def test_the_confusion_matrix_colours_mistakes_only() -> None:
    figure = plot_confusion_matrix([[980, 2], [1, 1000]], ("7", "9"), "t")
    assert {"980", "2", "1", "1000", "true", "predicted", "7", "9"} <= texts(figure)
    mistakes = figure.axes[0].get_images()[0]
    assert mistakes.get_clim() == (0, 2)  # a mistake is visible beside a thousand correct answers
    array = mistakes.get_array()
    assert array is not None
    assert np.ma.getmaskarray(array).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("classes", [2, 47])
def test_a_confusion_matrix_of_any_size_without_a_mistake(tmp_path: Path, classes: int) -> None:
    names = [f"class {n}" for n in range(classes)]
    save_figure(plot_confusion_matrix(np.eye(classes, dtype=int), names, "t"), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert min(picture.size) > 400


def test_the_most_confident_mistakes_come_first(digits: Dataset) -> None:
    images, labels = digits.test.images[:3], np.array([7, 7, 1])
    probabilities = np.zeros((3, 10))
    probabilities[0, 9], probabilities[1, 2], probabilities[2, 1] = 0.6, 0.9, 1.0
    figure = plot_mistakes(images, labels, probabilities, digits.classes, "t")
    assert "t: the 2 most confident of 2 mistakes" in texts(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["true 7\npredicted 2 (90%)", "true 7\npredicted 9 (60%)", ""]
    perfect = plot_mistakes(images, labels, np.eye(10)[labels], digits.classes, "t")
    assert "t: no mistake" in texts(perfect)


@pytest.mark.parametrize(
    "name", ["$x^$", "$", "a$b$c", "\\alpha", "%", "{x}", "_a", "x" * 300, " "]
)
@pytest.mark.parametrize("settings", [{}, {"text.usetex": True}], ids=["plain", "usetex"])
def test_names_are_drawn_unchanged(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """Class names may hold LaTeX's symbols; a training run must not fail at its last figure."""
    history = [dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), 0.5)]
    images, truth = np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 1])
    with matplotlib.rc_context(settings):
        save_figure(plot_curves(history, 1, name), tmp_path / "curves.png")
        matrix = plot_confusion_matrix([[3, 1], [2, 4]], (name, "y"), name)
        save_figure(matrix, tmp_path / "matrix.png")
        mistakes = plot_mistakes(images, truth, np.eye(2)[1 - truth], (name, "y"), name)
        save_figure(mistakes, tmp_path / "mistakes.png")
        lines = plot_lines([(np.zeros((28, 90), np.uint8), name, "y")], name)
        save_figure(lines, tmp_path / "lines.png")
    assert name in texts(matrix) or len(name) == 300
