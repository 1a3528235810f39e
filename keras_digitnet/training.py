"""A whole run: schedule, callbacks, checkpoints, and everything that it leaves behind."""

import contextlib
import csv
import functools
import io
import itertools
import logging
import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_digitnet import environment, plots
from keras_digitnet.artifacts import (
    RunFolder,
    atomic_write,
    create_run_folder,
    plain_name,
    remove_leftovers,
    write_json,
    write_text,
)
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.distribution import Group
from keras_digitnet.errors import DigitNetError, Interrupted, first_line
from keras_digitnet.evaluation import LinesReport, Report
from keras_digitnet.export import export_model
from keras_digitnet.formats.keras_file import load_keras_model as load_trained
from keras_digitnet.inference import find_keras_file
from keras_digitnet.model import DTYPES, count_parameters, jit_compile, network_dtype
from keras_digitnet.tasks import Batch, task_of

logger = logging.getLogger(__name__)

History = list[dict[str, float]]

_COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything lies.
        history: A row an epoch, as in `history.csv`.
        metrics: As in `metrics.json`.
        validation: Figures of the kept model on the validation images, which
            chose its epoch and its temperature.
        test: The same on the test images; `None` if they were left closed.
    """

    folder: RunFolder
    history: History
    metrics: dict[str, Any]
    validation: Report | LinesReport
    test: Report | LinesReport | None

    @property
    def model_path(self) -> Path:
        return self.folder.model_path

    def _repr_png_(self) -> bytes | None:
        """The curves for a notebook; `None` if their file is gone."""
        path = self.folder.curves_path
        return path.read_bytes() if path.is_file() else None


class TrainingInterrupted(Interrupted):
    """Ctrl-C or SIGTERM came; the message says what was kept and how to go on."""


class _DivergedError(DigitNetError):
    """The loss is not finite, and would not be on another try."""


def train(
    config: TrainConfig,
    dataset: Dataset | None = None,
    *,
    out_dir: str | Path = "runs",
    verbose: int | str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    devices: int | str | None = None,
) -> Run:
    """Trains a model and writes a run folder.

    Sets the global seeds of Python, NumPy and the backend. Computes in Keras's
    dtype policy if it is `mixed_bfloat16` or `mixed_float16`, and else in
    float32; the model's file is float32.

    Args:
        config: What to train, and on what.
        dataset: Images in place of those that `config.data` names.
        out_dir: The run folder becomes a new folder in here.
        verbose: As for `keras.Model.fit`: 0 silent, 1 a bar, 2 a line an
            epoch; `auto` is Keras's choice.
        callbacks: Keras callbacks, called after the run's own. They may stop
            the training; what they do to the weights is theirs to answer for.
        devices: How many devices share each batch, or `all`; the losses are
            those of one. On JAX only. In several processes that have called
            `keras.distribution.initialize` all do; process 0 alone leaves a
            folder.

    Raises:
        DigitNetError: The data is unusable, the loss was not finite, a callback
            is none, or the run folder cannot be written to.
        TrainingInterrupted: Ctrl-C or SIGTERM; ends after the current batch.
    """
    _require_callbacks(callbacks)
    _require_packages(config)
    dataset = dataset or _load(config)
    # The run names what it really uses, whatever `auto` finds or a preset is tomorrow.
    config = config.completed(dataset.source, len(dataset.classes))
    group = Group(devices, config.batch_size)
    policy = network_dtype()
    if (named := keras.config.dtype_policy().name) != policy:
        logger.warning(
            "Training in %s, not in Keras's dtype policy %s; mixed_bfloat16 and mixed_float16 "
            "would be followed.",
            policy,
            named,
        )
    named = (dataset.name, config.preset, keras.backend.backend())
    new = functools.partial(create_run_folder, Path(out_dir), *named)
    with group.folder(new, going_on=False) as folder, _keras_settings(policy):
        write_json(folder.config_path, _describe(config, dataset, policy))
        return _run(folder, config, dataset, verbose, callbacks, group)


def resume(
    run_dir: str | Path,
    dataset: Dataset | None = None,
    *,
    verbose: int | str = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    devices: int | str | None = None,
) -> Run:
    """Goes on with a run that was stopped; the end is as if it never had been.

    Args:
        run_dir: The run's folder.
        dataset: The images the run was given, if it was given any.
        verbose: As for `train`.
        callbacks: As for `train`; none is kept with a run, so give them again.
        devices: As for `train`; another number than before will do.

    Raises:
        DigitNetError: The folder holds no unfinished run, or the backend or the
            images are not the run's own. Otherwise as `train`.
    """
    _require_callbacks(callbacks)
    folder = RunFolder(Path(run_dir))
    saved = folder.read_unfinished()
    if (backend := keras.backend.backend()) != saved["backend"]:
        raise DigitNetError(
            f"{run_dir}: expected the run's own backend, {saved['backend']}; received: {backend}."
        )
    try:
        config = TrainConfig.from_json(saved["train"])
        _require_packages(config)
        if (policy := saved.get("dtype_policy", "float32")) not in DTYPES:
            raise DigitNetError(
                f"dtype_policy: expected one of {', '.join(DTYPES)}; received: {policy!r}."
            )
        dataset = dataset or _load(config)
    except DigitNetError as error:
        raise DigitNetError(f"{folder.config_path}: {error}") from None
    if dataset.fingerprint() != saved["fingerprint"]:
        raise DigitNetError(
            f"{run_dir}: expected the run's own images ({saved['dataset']}); received: "
            f"{dataset.name} with other content."
        )
    group = Group(devices, config.batch_size)
    with group.folder(lambda: folder, going_on=True) as own, _keras_settings(policy):
        remove_leftovers(own.path)
        return _run(own, config, dataset, verbose, callbacks, group)


def learning_rate_at(epoch: float, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then half a cosine down to 0.

    Args:
        epoch: Epochs since the start, with their fraction.
        config: Peak, length of the warm-up, length of the run.
    """
    peak = config.peak_learning_rate
    if epoch < config.warmup_epochs:
        return peak * epoch / config.warmup_epochs
    progress = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def feed(endless: Iterator[Batch]) -> Any:
    """Batches as `Model.fit` takes them best.

    Keras would hand them to TensorFlow as a data set whose buffers TensorFlow
    tunes as it goes, in a thread that sleeps ever longer. At the end of `fit`
    that thread may be waited for, as long again as the training took.
    """
    if keras.backend.backend() != "tensorflow":
        return endless
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    first = next(endless)
    signature = tuple(tf.TensorSpec(array.shape, array.dtype) for array in first)
    dataset = tf.data.Dataset.from_generator(
        lambda: itertools.chain([first], endless), output_signature=signature
    )
    return dataset.prefetch(2).with_options(options)


# The run, step by step


def _require_packages(config: TrainConfig) -> None:
    """Before hours of training, not after them."""
    if config.export:
        environment.require_tensorflow("export (--no-export leaves it out)")


def _load(config: TrainConfig) -> Dataset:
    return load_dataset(config.data, seed=config.seed, validation_size=config.validation_size)


@contextlib.contextmanager
def _keras_settings(policy: str) -> Iterator[None]:
    """Keras's dtype policy is the run's, and its floatx float32.

    The layers state what they need, but the optimizer and what Keras counts
    follow floatx: in float16 a count ends at 2,048.
    """
    floatx, named = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(named)


def _require_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    listed = isinstance(callbacks, Sequence)
    if not listed or not all(isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise DigitNetError(
            f"callbacks: expected a list of Keras callbacks; received: {callbacks!r}."
        )


def _run(
    folder: RunFolder,
    config: TrainConfig,
    dataset: Dataset,
    verbose: int | str,
    callbacks: Sequence[keras.callbacks.Callback],
    group: Group,
) -> Run:
    logger.info(
        "Training %s on %s: %d training, %d validation, %d test images. Run folder: %s",
        config.preset,
        dataset.name,
        len(dataset.train),
        len(dataset.validation),
        len(dataset.test),
        folder.path,
    )
    keras.utils.set_random_seed(config.seed)
    with group.scope():
        model = build_and_compile(config, dataset)
    history = _read_history(folder)
    if history:
        _load_checkpoint(model, folder.checkpoint_path(len(history)))
    elif config.start is not None:
        _load_start(model, config.start)
    kept = ""
    try:
        with _best_kept(folder, config, dataset, history):
            _fit(model, folder, config, dataset, history, verbose, callbacks, group)
        model = group.on_one_device(model, lambda: build_and_compile(config, dataset))
        calibration = _save_model(model, folder, config, dataset)
        kept = f" The model is kept: {folder.model_path}."
        if config.export and not group.process and not (folder.servable_dir / "1").exists():
            export_model(folder.model_path, folder.servable_dir.parent)
        return _finish(folder, config, dataset, history, calibration, count_parameters(model))
    except _DivergedError:
        raise
    except (DigitNetError, OSError) as error:
        raise DigitNetError(f"{error}{kept} {_how_to_go_on(folder)}") from None
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        message = f"{str(stop) or 'Stopped.'}{kept} {_how_to_go_on(folder)}"
        raise TrainingInterrupted(message, number) from None


def _load_checkpoint(model: keras.Model, path: Path) -> None:
    """Weights and the optimizer's state; Keras only warns where that is another one's.

    Raises:
        DigitNetError: It was written by a version with another optimizer.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping variable loading for optimizer")
        try:
            model.load_weights(path)
        except UserWarning as warning:
            raise DigitNetError(
                f"{path}: expected the state of this version's optimizer; received: "
                f"{first_line(warning)} Resume the run with the version that began it."
            ) from None


def _load_start(model: keras.Model, start: str) -> None:
    """Gives the model the weights of a trained one.

    Raises:
        DigitNetError: There is none, or it is another network.
    """
    trained = load_trained(find_keras_file(start))
    shapes = [[tuple(w.shape) for w in each.trainable_weights] for each in (model, trained)]
    if shapes[0] != shapes[1]:
        raise DigitNetError(
            f"start: expected a model of the same network, with {count_parameters(model):,} "
            f"parameters; received: {start}, with {count_parameters(trained):,}."
        )
    for own, of_trained in zip(model.trainable_weights, trained.trainable_weights, strict=True):
        own.assign(of_trained)


def _how_to_go_on(folder: RunFolder) -> str:
    if not folder.config_path.is_file():
        return "Train again."
    return f"Go on with: keras-digitnet train --resume {folder.path}"


def build_and_compile(
    config: TrainConfig, dataset: Dataset, steps: int | None = None
) -> keras.Model:
    """The model as `train` fits it: AdamW, the loss and the accuracy of its task.

    Args:
        config: The network, the learning rates.
        dataset: For the classes and the size of an epoch.
        steps: Of an epoch; by default as many as `train` makes.
    """
    task = task_of(config, dataset)
    model = task.network(_model_name(config, dataset))
    rates = StepRates(config, steps or task.steps)
    optimizer = keras.optimizers.AdamW(rates, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        task.loss,
        metrics=task.metrics,
        jit_compile=jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)  # which mixed_float16 wraps to scale the loss
    return model


def _model_name(config: TrainConfig, dataset: Dataset) -> str:
    """The data set's name goes wherever the model goes."""
    return f"digitnet_{config.preset}_{plain_name(dataset.name)}"


@contextlib.contextmanager
def _best_kept(
    folder: RunFolder, config: TrainConfig, dataset: Dataset, history: History
) -> Iterator[None]:
    """Whatever ends training early, the best model is saved and the message says so."""
    try:
        yield
    except (_DivergedError, TrainingInterrupted) as stop:
        stop.args = (f"{stop} {_keep_best(folder, config, dataset, history)}",)
        raise


def _fit(
    model: keras.Model,
    folder: RunFolder,
    config: TrainConfig,
    dataset: Dataset,
    history: History,
    verbose: int | str,
    callbacks: Sequence[keras.callbacks.Callback],
    group: Group,
) -> None:
    """Trains to the end, adds to `history`, and leaves the best weights in the model."""
    task = task_of(config, dataset)
    done = len(history)
    patience_lost = done > 0 and done - best_epoch(history) >= config.epochs_of_patience
    with _stop_signals() as signals, group.scope(), group.losses_told():
        model.fit(
            feed(task.batches(done, group.rows(config.batch_size))),
            steps_per_epoch=task.steps,
            initial_epoch=done,
            epochs=done if patience_lost else config.epochs,
            validation_data=task.validation(),
            validation_batch_size=task.validation_batch,
            shuffle=False,  # the task has done it
            verbose=verbose if environment.has_stdout() and not group.process else 0,
            callbacks=[
                WarmupCosine(config, task.steps),
                _EpochSeeds(config.seed),
                *group.callbacks(),
                _Guard(signals, group),
                _EarlyStopping(config.epochs_of_patience, folder, history),
                _Checkpoint(folder, history),
                *callbacks,
            ],
        )
        if number := group.agreed(max(signals, default=0)):  # in the last epoch's validation
            raise TrainingInterrupted("Stopped after the last epoch.", number)


def _save_model(
    model: keras.Model, folder: RunFolder, config: TrainConfig, dataset: Dataset
) -> dict[str, float]:
    """Writes `model.keras`, calibrated on the validation images; returns by what.

    The file has no optimizer, which nobody who uses the model needs, and
    computes in float32, which every runtime can.
    """
    with _keras_settings("float32"):
        bare, calibration = task_of(config, dataset).calibrated(model)
    with atomic_write(folder.model_path) as temporary:
        bare.save(temporary)
    return calibration


def _keep_best(folder: RunFolder, config: TrainConfig, dataset: Dataset, history: History) -> str:
    """Saves the best model of an unfinished run, and says where it is."""
    if not history:
        return "No epoch was finished, so there is no model yet."
    best = best_epoch(history)
    model = build_and_compile(config, dataset)
    model.load_weights(folder.checkpoint_path(best))
    _save_model(model, folder, config, dataset)
    accuracy = history[best - 1]["val_accuracy"]
    return (
        f"The best model so far (epoch {best}, validation accuracy {accuracy:.2%}) "
        f"is kept: {folder.model_path}."
    )


def _finish(
    folder: RunFolder,
    config: TrainConfig,
    dataset: Dataset,
    history: History,
    calibration: dict[str, float],
    parameters: int,
) -> Run:
    """Judges the file that was written, not the model in memory, and draws the pictures."""
    backend = keras.backend.backend()
    title = f"DigitNet {config.preset} on {dataset.name}"
    curves = plots.plot_curves(history, f"{title}, seed {config.seed}, {backend}")
    plots.save_figure(curves, folder.curves_path)
    validation, test = task_of(config, dataset).judged(folder, title)
    metrics = {
        "dataset": dataset.name,
        "preset": config.preset,
        "backend": backend,
        "seed": config.seed,
        "parameters": parameters,
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        **calibration,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "versions": environment.versions(),
        "validation": validation.to_json(),
        "test": test.to_json() if test else None,
    }
    write_json(folder.metrics_path, metrics)
    shutil.rmtree(folder.checkpoints_dir, ignore_errors=True)
    return Run(folder, history, metrics, validation, test)


# What goes on inside `fit`


@keras.saving.register_keras_serializable(package="keras_digitnet")
class StepRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step, which the optimizer looks up itself.

    So it changes inside the compiled step, by the optimizer's own count of the
    steps: on JAX, to set it from outside costs half as much as a step. After
    the last step the rate stays. Under mixed_float16 the count leaves out the
    steps whose gradients were not finite, which changed nothing.
    """

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self._config = config
        self._steps = steps
        middles = (np.arange(config.epochs * steps) + 0.5) / steps
        rates = [learning_rate_at(float(epoch), config) for epoch in middles]
        self._rates = np.array(rates, "float32")

    def __call__(self, step: Any) -> Any:
        return keras.ops.take(self._rates, keras.ops.minimum(step, len(self._rates) - 1))

    def get_config(self) -> dict[str, Any]:
        return {"config": self._config.to_json(), "steps": self._steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StepRates":
        return cls(TrainConfig.from_json(config["config"]), config["steps"])


class WarmupCosine(keras.callbacks.LearningRateScheduler):
    """Reports the learning rate of an epoch's last step, which `StepRates` has set."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        super().__init__(schedule=lambda epoch, _: learning_rate_at(epoch, config))
        self._steps = steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.schedule(epoch + 1 - 0.5 / self._steps, None)


class _EpochSeeds(keras.callbacks.Callback):
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


class _Guard(keras.callbacks.Callback):
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
            raise _DivergedError(
                f"{name}: expected a finite number; received: {value} in epoch {self._epoch + 1}. "
                "Try a lower --learning-rate."
            )


class _EarlyStopping(keras.callbacks.EarlyStopping):
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


class _Checkpoint(keras.callbacks.Callback):
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
        self._history.append({column: row[column] for column in _COLUMNS})
        _write_history(self._folder, self._history)
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
def _stop_signals() -> Iterator[list[int]]:
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


# What a run remembers


def best_epoch(history: History) -> int:
    """The number of the first epoch, from 1 on, with the lowest validation loss."""
    return 1 + min(range(len(history)), key=lambda index: history[index]["val_loss"])


def _describe(config: TrainConfig, dataset: Dataset, policy: str) -> dict[str, Any]:
    return {
        "classes": list(dataset.classes),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "backend": keras.backend.backend(),
        "dtype_policy": policy,
        "train": config.to_json(),
    }


def _write_history(folder: RunFolder, history: History) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(history, start=1))
    write_text(folder.history_path, text.getvalue())


def _read_history(folder: RunFolder) -> History:
    """The epochs up to the newest checkpoint; none where there is no checkpoint."""
    epochs = max(folder.checkpoints(), default=0)
    if epochs == 0:
        return []
    try:
        with folder.history_path.open(newline="") as file:
            rows = list(csv.DictReader(file))[:epochs]
        return [{column: float(row[column]) for column in _COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DigitNetError(
            f"{folder.history_path}: expected a row an epoch; received: {first_line(error)}."
        ) from None
