"""Matplotlib figures of training and evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from keras_digitnet.artifacts import atomic_write

if TYPE_CHECKING:
    from keras_digitnet.pages import Page

_TRAINING, _VALIDATION = "#4477aa", "#cc6611"
_MAX_CLASSES_WITH_COUNTS = 30
_LONGEST_NAME = 24
# Names of classes and data sets are plain text, even if they hold `$`.
_text_as_it_is = rc_context({"text.parse_math": False, "text.usetex": False})


@_text_as_it_is
def plot_curves(history: Sequence[dict[str, float]], kept: int, title: str) -> Figure:
    """Plots loss and accuracy over the epochs, for training and validation.

    Args:
        history: One row per epoch: `loss`, `accuracy`, `val_loss`, `val_accuracy`.
        kept: The number of the epoch whose weights were kept.
        title: Title of the figure.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    _plot_metric(loss_axes, history, "loss")
    loss_axes.set(ylabel="loss (logarithmic)", yscale="log", title="Loss")
    loss_axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss_axes.yaxis.set_major_formatter("{x:g}")
    loss_axes.yaxis.set_minor_locator(NullLocator())
    _plot_metric(accuracy_axes, history, "accuracy", percent=True)
    accuracy_axes.set(ylabel="accuracy (%)", title="Accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.axvline(kept, color="0.6", linestyle=":", label=f"kept: epoch {kept}")
        axes.legend(frameon=False)
    figure.suptitle(title)
    return figure


@_text_as_it_is
def plot_confusion_matrix(matrix: ArrayLike, classes: Sequence[str], title: str) -> Figure:
    """Plots a confusion matrix; only the mistakes are coloured.

    Args:
        matrix: `(C, C)` counts; a row is a true class, a column a predicted one.
        classes: The C names.
        title: Title of the figure.
    """
    counts = np.asarray(matrix)
    number = len(classes)
    side = float(np.clip(2.5 + 0.55 * number, 5, 20))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    diagonal = np.eye(number, dtype=bool)
    mistakes = np.ma.masked_where(diagonal, counts)
    most = max(int(mistakes.max()) if number > 1 else 0, 1)
    image = axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=most)
    axes.imshow(np.ma.masked_where(~diagonal, diagonal), cmap="Greys", vmin=0, vmax=8)
    bar = figure.colorbar(image, ax=axes, label="mistakes (off the diagonal)", shrink=0.8)
    bar.locator = MaxNLocator(integer=True, min_n_ticks=1)
    if number <= _MAX_CLASSES_WITH_COUNTS:
        for row, column in np.ndindex(counts.shape):
            _write_count(axes, int(counts[row, column]), row, column, most)
    names = list(map(_shortened, classes))
    axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(number), names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


@_text_as_it_is
def plot_mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
    most: int = 24,
) -> Figure:
    """Plots the most confident mistakes, each with the true and the predicted class.

    Args:
        images: `(N, 28, 28, 1)` uint8.
        labels: `(N,)` integers, the true classes.
        probabilities: `(N, C)` float.
        classes: The C names.
        title: Title of the figure.
        most: Largest number of pictures.
    """
    answers = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    columns = 6
    rows = max(-(-len(worst) // columns), 1)
    figure = Figure(figsize=(9, 1.95 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, index in zip(grid.flat, worst, strict=False):
        axes.imshow(images[index, ..., 0], cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"true {_shortened(classes[labels[index]])}\n"
            f"predicted {_shortened(classes[answers[index]])} ({confidence[index]:.0%})",
            fontsize=9,
        )
    shown = (
        f"the {len(worst)} most confident of {len(wrong)} mistakes" if len(wrong) else "no mistake"
    )
    figure.suptitle(f"{title}: {shown}")
    return figure


@_text_as_it_is
def plot_pages(pages: "Sequence[Page]", classes: Sequence[str], title: str) -> Figure:
    """Plots a reader's training pages with the boxes and classes of their characters.

    Args:
        pages: The pages; dotted boxes are ignored by the loss.
        classes: The C names.
        title: Title of the figure.
    """
    columns = 3
    rows = -(-len(pages) // columns)
    figure = Figure(figsize=(12, 1.05 * rows + 0.5), layout="constrained")
    for axes, page in zip(figure.subplots(rows, columns).flat, pages, strict=True):
        axes.axis("off")
        axes.imshow(page.image, cmap="gray", vmin=0, vmax=255)
        boxes = [(box, classes[label]) for box, label in zip(page.boxes, page.labels, strict=True)]
        for (left, top, right, bottom), name in [*boxes, *((box, "") for box in page.ignored)]:
            style = "-" if name else ":"
            axes.add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5),
                    right - left,
                    bottom - top,
                    fill=False,
                    edgecolor="red",
                    linestyle=style,
                    linewidth=0.8,
                )
            )
            axes.text(left, top, name, color="red", fontsize=7, va="bottom")
    figure.suptitle(title)
    return figure


@_text_as_it_is
def plot_lines(
    mistakes: Sequence[tuple[np.ndarray, str, str]], title: str, most: int = 24
) -> Figure:
    """Plots misread lines, each with its true text and the text that was read.

    Args:
        mistakes: Picture `(H, W)` uint8, true text and read text of each line.
        title: Title of the figure.
        most: Largest number of lines.
    """
    shown = mistakes[:most]
    columns = 2
    rows = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(11, 1.15 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (picture, truth, answer) in zip(grid.flat, shown, strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"true {truth}, read {answer or 'nothing'}", fontsize=9)
    counted = f"{len(shown)} of {len(mistakes)} misread lines"
    figure.suptitle(f"{title}: {counted if mistakes else 'no mistake'}")
    return figure


@_text_as_it_is
def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure atomically.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot_metric(
    axes: Axes, history: Sequence[dict[str, float]], name: str, percent: bool = False
) -> None:
    epochs = range(1, len(history) + 1)
    for key, label, colour in (
        (name, "training", _TRAINING),
        (f"val_{name}", "validation", _VALIDATION),
    ):
        values = np.array([row[key] for row in history]) * (100 if percent else 1)
        axes.plot(epochs, values, "o-", color=colour, label=label, markersize=4)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _write_count(axes: Axes, count: int, row: int, column: int, most: int) -> None:
    right = row == column
    if count == 0 and not right:
        axes.text(column, row, "·", ha="center", va="center", color="0.7")
        return
    colour = "white" if not right and count > 0.6 * most else "black"
    weight = "normal" if right else "bold"
    axes.text(column, row, f"{count}", ha="center", va="center", color=colour, weight=weight)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
