"""Turns curves of test accuracy over time into table rows and a figure."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

GOALS = (0.990, 0.995)
COLUMNS_OF_GOALS = tuple(f"to {goal:.1%}" for goal in GOALS)

# A curve has `compilation` (seconds of the first batch), and for the end of each epoch `seconds`
# (of training since the first batch) and `accuracies`.
Curve = dict[str, Any]

_COLOURS = ("#cc6611", "#882255", "#4477aa", "#228833", "#999933", "#777777")


def row(curves: Sequence[Curve]) -> tuple[str, ...]:
    """Medians over the seeds of a system: first batch, epoch, time to each goal, last accuracy."""
    first = statistics.median(curve["compilation"] for curve in curves)
    epoch = statistics.median(curve["seconds"][-1] / len(curve["seconds"]) for curve in curves)
    end = statistics.median(curve["accuracies"][-1] for curve in curves)
    times = [statistics.median(time_to(goal, curve) for curve in curves) for goal in GOALS]
    return (
        f"{first:.1f} s",
        f"{epoch:.1f} s",
        *("never" if math.isinf(time) else f"{time:.1f} s" for time in times),
        f"{end:.2%}",
    )


def time_to(goal: float, curve: Curve) -> float:
    """Seconds until the end of the first epoch that reaches the goal; infinity if none does."""
    points = zip(curve["seconds"], curve["accuracies"], strict=True)
    return next((seconds for seconds, accuracy in points if accuracy >= goal), math.inf)


def plot(systems: dict[str, list[Curve]], data: str) -> Figure:
    """Plots the median curve of each system; ours, with names in backquotes, are highlighted."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for (name, curves), colour in zip(systems.items(), _COLOURS, strict=True):
        ours = name.startswith("`")
        axes.plot(
            _medians(curves, "seconds"),
            [100 * accuracy for accuracy in _medians(curves, "accuracies")],
            "o-" if ours else "s--",
            color=colour,
            linewidth=2.5 if ours else 1.2,
            markersize=5,
            label=name.replace("`", ""),
        )
    for goal in GOALS:
        axes.axhline(100 * goal, color="0.7", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="seconds of training, without the first batch (logarithmic)",
        ylabel="test accuracy (%)",
        ylim=(97, 99.8),
        title=f"{data}: a point is the end of an epoch, median of the seeds",
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _medians(curves: Sequence[Curve], key: str) -> list[float]:
    return [statistics.median(each) for each in zip(*(curve[key] for curve in curves), strict=True)]
