"""What a line says: random labels or an amount, and the sizes of its characters."""

from dataclasses import dataclass

import numpy as np

from keras_digitnet.pages.chance import weighted_choice


@dataclass(frozen=True)
class Text:
    """The characters of one line.

    Attributes:
        labels: `(N,)` int64.
        sizes: `(C, 2)` range of each label's size, as a fraction of the line's height.
        on_baseline: Whether smaller characters stand on the baseline, otherwise at any height.
        zeros_gap: The mean gap between two 0s, in heights of the line; `None` for the
            line's own gap.
        linked: Whether 0s are linked by strokes at their tops.
    """

    labels: np.ndarray
    sizes: np.ndarray
    on_baseline: bool = False
    zeros_gap: float | None = None
    linked: bool = False

    def gap(self, place: int, usual: float) -> float:
        """The mean gap after this character; `usual` is the line's own."""
        return self.zeros_gap if self.zeros_gap is not None and self.are_zeros(place) else usual

    def links(self, place: int) -> bool:
        """Whether a stroke links this character to the one before."""
        return self.linked and place > 0 and self.are_zeros(place - 1)

    def are_zeros(self, place: int) -> bool:
        """Whether this character and the next are 0s."""
        pair = self.labels[place : place + 2]
        return len(pair) == 2 and not pair.any()


def any_text(random: np.random.Generator, count: int, num_classes: int) -> Text:
    """Independent labels; in some lines they repeat, in others some labels are smaller."""
    labels = random.integers(num_classes, size=count)
    if random.random() < 0.2:
        for place in np.flatnonzero(random.random(count - 1) < 0.4) + 1:
            labels[place] = labels[place - 1]
    sizes = np.ones((num_classes, 2))
    if random.random() < 0.12:  # as 0 beside 7
        sizes[random.random(num_classes) < 0.25] = 0.4, 0.8
    return Text(labels, sizes)


def amount(random: np.random.Generator) -> Text:
    """A number as people write amounts: it often begins with 1s and ends with small, linked 0s."""
    count = int(random.integers(2, 9))
    labels = random.integers(10, size=count)
    if random.random() < 0.45:
        labels[: weighted_choice(random, (1, 2, 3), (0.5, 0.3, 0.2))] = 1
    if random.random() < 0.6:
        labels[-int(random.integers(1, 6)) :] = 0
    sizes = np.ones((10, 2))
    if random.random() < 0.6:
        low = random.uniform(0.4, 1)
        sizes[0] = low, 1.2 * low
    return Text(
        labels,
        sizes,
        on_baseline=random.random() < 0.7,
        zeros_gap=random.uniform(-0.25, 0.12),
        linked=random.random() < 0.35,
    )
