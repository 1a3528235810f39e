"""The callbacks of a run: seeds, checkpoints, early stopping, signals."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np

from keras_digitnet.artifacts import RunFolder, atomic_write
from keras_digitnet.distribution import Group
from keras_digitnet.errors import DigitNetError, Interrupted
from keras_digitnet.training.history import COLUMNS, History, best_epoch, kept_epoch, write_history

logger = logging.getLogger(__name__)


class TrainingInterrupted(Interrupted):
    """Ctrl-C or SIGTERM; the message says what was saved and how to resume."""


class DivergedError(DigitNetError):
    """The loss is not finite; resuming would give the same result."""


class EpochSeeds(keras.callbacks.Callback):
    """Reseeds the random layers at each epoch, from the seed and the epoch's number.

    Keras does not save their states in `.keras` or `.weights.h5` files, so a
    resumed run would otherwise augment differently from an uninterrupted one.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        states = [v for v in self.model.non_trainable_variables if v.name == "seed_generator_state"]
        for index, state in enumerate(states):
            random = np.random.default_rng([self._seed, epoch, index])
            state.assign(random.integers(2**31, size=2))


class Guard(keras.callbacks.Callback):
    """Stops training between batches on a signal or a loss that is not finite.

    It never waits for a step. Signals are checked before each step. Keras
    reads the losses in a separate thread; one that is not finite ends `fit` as
    soon as it is known, and before the epoch is saved.
    """

    async_safe = True  # lets Keras call `on_train_batch_end` from that thread

    def __init__(self, signals: list[int], group: Group) -> None:
        super().__init__()
        self._signals = signals
        self._group = group
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if number := self._group.max_over_processes(max(self._signals, default=0)):
            raise TrainingInterrupted(f"Stopped in epoch {self._epoch + 1}.", number)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._require_finite("loss", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # The last step may corrupt the weights after its loss was computed.
        self._require_finite("val_loss", logs)

    def _require_finite(self, name: str, logs: dict[str, float] | None) -> None:
        value = float((logs or {}).get(name, 0.0))
        if not math.isfinite(value):
            raise DivergedError(
                f"{name}: expected a finite number; received: {value} in epoch {self._epoch + 1}. "
                "Try a lower --learning-rate."
            )


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's early stopping, restored from the history when a run is resumed.

    A run that is not stopped keeps its last weights, see `kept_epoch`.
    """

    def __init__(self, patience: int, epochs: int, folder: RunFolder, history: History) -> None:
        super().__init__("val_loss", patience=patience, restore_best_weights=True)
        self._epochs = epochs
        self._folder = folder
        self._history = history

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        super().on_train_begin(logs)
        if not self._history:
            return
        epochs = len(self._history)
        best = best_epoch(self._history)
        self.best = self._history[best - 1]["val_loss"]
        self.best_epoch = best - 1
        self.wait = epochs - best
        self.model.load_weights(self._folder.checkpoint_path(best))
        self.best_weights = self.model.get_weights()
        self.model.load_weights(self._folder.checkpoint_path(epochs))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if kept_epoch(self._history, self._epochs) < len(self._history):
            super().on_train_end(logs)


class Checkpoint(keras.callbacks.Callback):
    """Writes the history and a checkpoint after each epoch.

    The history is written first: on resuming, rows beyond the newest
    checkpoint are dropped. The newest and the best checkpoint are kept. They
    are `.keras` files because HDF5 aborts the process when the disk is full.
    """

    def __init__(self, folder: RunFolder, history: History) -> None:
        super().__init__()
        self._folder = folder
        self._history = history
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        _require_folder(self._folder)
        seconds = round(time.perf_counter() - self._started, 3)
        row = {key: float(value) for key, value in (logs or {}).items()} | {"seconds": seconds}
        self._history.append({column: row[column] for column in COLUMNS})
        write_history(self._folder, self._history)
        with atomic_write(self._folder.checkpoint_path(epoch + 1)) as temporary:
            self.model.save(temporary)
        kept = {epoch + 1, best_epoch(self._history)}
        for epochs, path in self._folder.checkpoints().items():
            if epochs not in kept:
                path.unlink(missing_ok=True)


def _require_folder(folder: RunFolder) -> None:
    """Raises DigitNetError if the folder was removed; the next write would recreate it empty."""
    if not folder.config_path.is_file():
        raise DigitNetError(
            f"{folder.path}: expected the run's folder to remain; received: it was removed."
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that receives the first Ctrl-C or SIGTERM; a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        received.append(number)
        restore()
        logger.warning("Stopping after this batch; press Ctrl-C again to stop at once.")

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield received
    finally:
        restore()
