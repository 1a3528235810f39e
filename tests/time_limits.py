"""Time limits for an idle machine, scaled by the load of the current one."""

import contextlib
import time
from collections.abc import Iterator

# Time of the work below on the idle machine on which the limits were set.
_IDLE_SECONDS = 0.017


def scaled(seconds: float) -> float:
    """The time on this machine, under its current load, for `seconds` on an idle one."""
    start, total = time.monotonic(), 0
    for number in range(200_000):
        total += number * number
    return seconds * max(1.0, (time.monotonic() - start) / _IDLE_SECONDS)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails if the body takes longer than `seconds` would allow on an idle machine."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds or took < scaled(seconds)
