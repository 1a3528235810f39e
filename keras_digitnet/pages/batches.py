"""Batches of training pages, composed in worker processes where there are processors to spare."""

import collections
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.pages.composer import Composer
from keras_digitnet.pages.frame import Page
from keras_digitnet.pages.targets import targets

Batch = tuple[np.ndarray, np.ndarray]

# Batches that each worker composes ahead, so that none waits while an epoch is validated and saved.
_PREFETCH = 4
# Seconds between a worker's checks that the training still runs.
_POLL_SECONDS = 2.0
# Timeout of a batch in seconds, with the start of a worker. One that is killed while it answers
# leaves the pool waiting for the rest of the answer.
_TIMEOUT = 300.0


@dataclass(frozen=True)
class PageBatches:
    """Composes batches of pages, each of which depends on the seed and the batch's number alone.

    Attributes:
        composer: Composes a page.
        seed: The run's seed.
        pages: The numbers of a batch's pages.
    """

    composer: Composer
    seed: int
    pages: Sequence[int]

    def page(self, batch: Sequence[int], index: int) -> Page:
        """The page of that index in a batch."""
        return self.composer.compose(np.random.default_rng([self.seed, *batch, index]))

    def compose(self, batch: Sequence[int]) -> Batch:
        """Pages `(B, H, W, 1)` uint8 and targets `(B, h, w, 8)` float32 of the batch's number."""
        pages = [self.page(batch, index) for index in self.pages]
        images = np.stack([page.image for page in pages])[..., None]
        return images, np.stack([targets(page) for page in pages])

    def in_order(self, batches: Iterable[Sequence[int]], workers: int) -> Iterator[Batch]:
        """Composes batches one after the other; the number of workers does not change them.

        Args:
            batches: Their numbers, which may be endless.
            workers: Processes that compose; 0 composes in this one.

        Raises:
            DigitNetError: A worker cannot start, was killed, or does not answer.
        """
        if workers:
            yield from _composed_by_workers(self, batches, workers)
        else:
            yield from map(self.compose, batches)


def _composed_by_workers(
    composing: PageBatches, batches: Iterable[Sequence[int]], workers: int
) -> Iterator[Batch]:
    # Unlike the standard library's, its processes never run the user's main module, which
    # would train again.
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    pool = ProcessPoolExecutor(
        workers, initializer=_start_worker, initargs=(composing, os.getpid())
    )
    begun: collections.deque[Future] = collections.deque()
    try:
        for batch in batches:
            begun.append(pool.submit(_compose, batch))
            if len(begun) > _PREFETCH * workers:
                yield begun.popleft().result(_TIMEOUT)
        while begun:
            yield begun.popleft().result(_TIMEOUT)
    except (BrokenProcessPool, TimeoutError) as error:
        received = first_line(error) if str(error) else f"no pages within {_TIMEOUT:.0f} s."
        raise DigitNetError(
            f"pages: expected {workers} processes that compose them; received: {received} "
            "A process that is killed often lacked memory."
        ) from None
    finally:
        for future in begun:
            future.cancel()
        pool.shutdown(wait=False)


def _start_worker(composing: PageBatches, parent: int) -> None:
    """Keeps what this worker process composes with; `parent` is the process it works for."""
    import cv2

    global _composing
    _composing = composing
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's to handle
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    """Ends this worker soon after the process it works for, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


def _compose(batch: Sequence[int]) -> Batch:
    return _composing.compose(batch)


_composing: PageBatches
