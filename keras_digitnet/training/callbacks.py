"""What goes on inside `fit`: seeds, checkpoints, and reasons to stop."""

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
from keras_digitnet.training.history import COLUMNS, History, best_epoch, write_history

logger = logging.getLogger(__name__)


class TrainingInterrupted(Interrupted):
    """Ctrl-C or SIGTERM came; the message says what was kept and how to go on."""


class DivergedError(DigitNetError):
    """The loss is not finite, and would not be on another try."""


class EpochSeeds(keras.callbacks.Callback):
    """Sets the random layers' states from the seed and the epoch's number alone.

    Keras saves these states neither in `.keras` nor in `.weights.h5` files, so
    a resumed run would augment otherwise than one that never stopped.
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
    """Ends training between two batches, on a signal or a loss that is not finite.

    It never waits for a step to be computed. A signal is seen before the next
    step is begun. Keras reads each step's loss in a thread of its own, as it
    does without any callback; one that is not finite ends `fit` as soon as it
    is known, and before the epoch's end counts.
    """

    async_safe = True  # which tells Keras that `on_train_batch_end` may come from that thread

    def __init__(self, signals: list[int], group: Group) -> None:
        super().__init__()
        self._signals = signals
        self._group = group
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if number := self._group.agreed(max(self._signals, default=0)):
            raise TrainingInterrupted(f"Stopped in epoch {self._epoch + 1}.", number)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._require_finite("loss", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # The last step may corrupt the weights after its own loss was taken.
        self._require_finite("val_loss", logs)

    def _require_finite(self, name: str, logs: dict[str, float] | None) -> None:
        value = float((logs or {}).get(name, 0.0))
        if not math.isfinite(value):
            raise DivergedError(
                f"{name}: expected a finite number; received: {value} in epoch {self._epoch + 1}. "
                "Try a lower --learning-rate."
            )


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's early stopping, which also knows the epochs before a resume."""

    def __init__(self, patience: int, folder: RunFolder, history: History) -> None:
        super().__init__("val_loss", patience=patience, restore_best_weights=True)
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


class Checkpoint(keras.callbacks.Callback):
    """After each epoch writes the history and the whole state of training.

    The history comes first: rows beyond the newest checkpoint are cut off on
    resuming. Besides the newest checkpoint the best one is kept. They are
    `.keras` files because HDF5 ends the whole process where a disk is full.
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
    """Else the next file would make it anew, without what it held."""
    if not folder.config_path.is_file():
        raise DigitNetError(
            f"{folder.path}: expected the run's folder to stay; received: it was removed."
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM goes into; the second acts as it always does."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # signals reach the main thread only
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        came.append(number)
        restore()
        logger.warning("Stopping after this batch; press Ctrl-C again to stop at once.")

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield came
    finally:
        restore()
