"""Limits of time that hold on a busy machine too: each is told for an idle one."""

import contextlib
import time
from collections.abc import Iterator

# What the work below takes on the machine that the limits were set on, left to itself.
_IDLE_SECONDS = 0.017


def patience(seconds: float) -> float:
    """How long so many seconds of an idle machine are on this one, as busy as it is now."""
    start, total = time.monotonic(), 0
    for number in range(200_000):
        total += number * number
    return seconds * max(1.0, (time.monotonic() - start) / _IDLE_SECONDS)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails if what happens inside takes longer than so many seconds of an idle machine."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds or took < patience(seconds)
