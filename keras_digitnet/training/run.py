"""A complete run: training, and every file of its folder."""

import contextlib
import functools
import logging
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras

from keras_digitnet import environment, plots
from keras_digitnet.artifacts import (
    RunFolder,
    atomic_write,
    create_run_folder,
    expanded,
    read_json,
    remove_leftovers,
    write_json,
)
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.distribution import Group
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.evaluation import LinesReport, Report
from keras_digitnet.export import export_model
from keras_digitnet.formats.keras_file import load_keras_model as load_trained
from keras_digitnet.networks.blocks import DTYPES, copy_weights, count_parameters, network_dtype
from keras_digitnet.reading.inference import find_keras_file
from keras_digitnet.training.callbacks import DivergedError, TrainingInterrupted
from keras_digitnet.training.fitting import TrainingJob, fit
from keras_digitnet.training.history import History, best_epoch, kept_epoch, read_history
from keras_digitnet.training.tasks import undo_calibration

logger = logging.getLogger(__name__)

Callbacks: TypeAlias = keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run's folder.
        history: One row per epoch, as in `history.csv`.
        metrics: As in `metrics.json`.
        validation: Metrics of the saved model on the validation images, which
            its temperature, and its epoch if it stopped early, were chosen with.
        test: Metrics on the test images; `None` with `TrainConfig.test` off.
    """

    folder: RunFolder
    history: History
    metrics: dict[str, Any]
    validation: Report | LinesReport
    test: Report | LinesReport | None

    @property
    def model_path(self) -> Path:
        """The `.keras` file."""
        return self.folder.model_path

    def _repr_png_(self) -> bytes | None:
        """The training curves, for notebooks; `None` if their file was removed."""
        path = self.folder.curves_path
        return path.read_bytes() if path.is_file() else None


def train(
    config: TrainConfig,
    dataset: Dataset | None = None,
    *,
    out_dir: str | Path = "runs",
    verbose: int | str = "auto",
    callbacks: Callbacks = None,
    devices: int | str | None = None,
) -> Run:
    """Trains a model and writes a run folder.

    Sets the global seeds of Python, NumPy and the backend. Computes in Keras's
    dtype policy if it is `mixed_bfloat16` or `mixed_float16`, otherwise in
    float32; the saved model is float32.

    Args:
        config: The settings.
        dataset: Replaces the data set that `config.data` names.
        out_dir: The folder in which the run folder is created.
        verbose: As for `keras.Model.fit`: 0 silent, 1 a progress bar, 2 one
            line per epoch; `auto` is Keras's choice.
        callbacks: A Keras callback or several, called after the run's own. They
            may stop the training, but should not change the weights. On
            TensorFlow their methods for batches are called once per eight steps.
        devices: Number of devices that share each batch, or `all`, on JAX; the
            losses are the same as on one, apart from rounding. In several processes, connected by
            `keras.distribution.initialize`, all devices are used, and only
            process 0 writes a run folder.

    Raises:
        DigitNetError: The data is unusable, the loss is not finite, a callback
            is not a Keras callback or sets the learning rate, or the run folder
            cannot be written to.
        TrainingInterrupted: Ctrl-C or SIGTERM; stops after the current batch.
    """
    callbacks = _listed(callbacks)
    if not isinstance(config, TrainConfig):
        raise DigitNetError(f"config: expected a TrainConfig; received: {config!r}.")
    _require_packages(config)
    if config.start is not None:  # before the folder is made, and an address of a server is written
        find_keras_file(config.start)
    dataset = dataset or _load(config)
    # The run records what it uses, since `auto` and the presets may change.
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
    new = functools.partial(create_run_folder, expanded(out_dir), *named)
    with group.folder(new, resuming=False) as folder, _keras_settings(policy):
        write_json(folder.config_path, _describe(config, dataset, policy))
        job = TrainingJob(folder, config, dataset, group, [], verbose, callbacks)
        try:
            model = _prepared(job)
        except DigitNetError:  # such as a teacher of another kind: there is nothing to resume
            if not group.process:
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return _run(job, model)


def resume(
    run_dir: str | Path,
    dataset: Dataset | None = None,
    *,
    verbose: int | str = "auto",
    callbacks: Callbacks = None,
    devices: int | str | None = None,
) -> Run:
    """Resumes a stopped run; the result is identical to that of an uninterrupted one.

    Args:
        run_dir: The run's folder.
        dataset: The data set that was passed to `train`, if any.
        verbose: As for `train`.
        callbacks: As for `train`; they are not saved with a run.
        devices: As for `train`; may differ from the number before.

    Raises:
        DigitNetError: The folder holds no unfinished run, or the backend or the
            images differ from the run's. Otherwise as for `train`.
        TrainingInterrupted: As for `train`.
    """
    callbacks = _listed(callbacks)
    folder = RunFolder(expanded(run_dir))
    saved = folder.read_unfinished()
    if (backend := keras.backend.backend()) != saved["backend"]:
        raise DigitNetError(
            f"{run_dir}: expected the run's backend, {saved['backend']}; received: {backend}."
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
            f"{run_dir}: expected the run's data set, {saved['dataset']}; received: "
            f"{dataset.name} with other content."
        )
    group = Group(devices, config.batch_size)
    with group.folder(lambda: folder, resuming=True) as own, _keras_settings(policy):
        remove_leftovers(own.path)
        history = read_history(own)
        job = TrainingJob(own, config, dataset, group, history, verbose, callbacks)
        return _run(job, _prepared(job))


# The run, step by step


def _require_packages(config: TrainConfig) -> None:
    """Fails before hours of training, not after."""
    if config.export:
        environment.require_tensorflow("export (--no-export skips it)")


def _load(config: TrainConfig) -> Dataset:
    return load_dataset(config.data, seed=config.seed, validation_size=config.validation_size)


@contextlib.contextmanager
def _keras_settings(policy: str) -> Iterator[None]:
    """Sets Keras's dtype policy to the run's and its floatx to float32.

    The layers set their dtypes, but the optimizer and Keras's counters follow
    floatx, and a float16 counter stops at 2,048.
    """
    floatx, named = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(named)


def _listed(callbacks: Callbacks) -> list[keras.callbacks.Callback]:
    """The user's callbacks as a list; raises DigitNetError for others."""
    rates = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    listed = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks or []
    if not isinstance(listed, Sequence) or not all(
        isinstance(each, keras.callbacks.Callback) and not isinstance(each, rates)
        for each in listed
    ):
        raise DigitNetError(
            "callbacks: expected a list of Keras callbacks that leave the learning rate to the "
            f"run's own schedule; received: {callbacks!r}."
        )
    return list(listed)


def _prepared(job: TrainingJob) -> keras.Model:
    """The model with which the run begins or continues."""
    folder, config, dataset, group = job.folder, job.config, job.dataset, job.group
    logger.info(
        "Training %s on %s: %d training, %d validation, %d test images. Run folder: %s",
        config.preset,
        dataset.name,
        len(dataset.train),
        len(dataset.validation),
        len(dataset.test),
        folder.path,
    )
    with environment.suppress_native_stderr():  # imports TensorFlow, if installed, on any backend
        keras.utils.set_random_seed(config.seed)
    with group.scope():
        model = job.new_model()
    if job.history:
        _load_checkpoint(model, folder.checkpoint_path(len(job.history)))
    elif config.start is not None:
        _load_start(model, config.start)
    return model


def _run(job: TrainingJob, model: keras.Model) -> Run:
    folder, config, group = job.folder, job.config, job.group
    saved = ""
    try:
        with _saving_best(job):
            fit(model, job)
        model = group.on_one_device(model, job.new_model)
        calibration = _save_model(model, job)
        saved = f" The model is saved: {folder.model_path}."
        if config.export and not group.process and not (folder.servable_dir / "1").exists():
            export_model(folder.model_path, folder.servable_dir.parent)
        return _finish(job, calibration, count_parameters(model))
    except DivergedError:
        raise
    except (DigitNetError, OSError) as error:
        raise DigitNetError(f"{error}{saved} {_how_to_continue(folder)}") from None
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", signal.SIGINT)
        message = f"{str(stop) or 'Stopped.'}{saved} {_how_to_continue(folder)}"
        raise TrainingInterrupted(message, number) from None


def _load_checkpoint(model: keras.Model, path: Path) -> None:
    """Loads the weights and the optimizer's state; Keras only warns if that does not match.

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
                f"{first_line(warning)} Resume the run with the version that started it."
            ) from None


def _load_start(model: keras.Model, start: str) -> None:
    """Copies the weights of a trained model of the same network, or of one with fewer blocks.

    Raises:
        DigitNetError: There is no such model, or its network differs.
    """
    path = find_keras_file(start)
    trained = load_trained(path)
    metrics_path = RunFolder(path.parent).metrics_path
    if metrics_path.is_file():
        undo_calibration(trained, read_json(metrics_path))
    if not copy_weights(trained, model):
        raise DigitNetError(
            f"start: expected a model of the same network, with {count_parameters(model):,} "
            f"parameters, or of one with fewer blocks; received: {start}, with "
            f"{count_parameters(trained):,}."
        )


def _how_to_continue(folder: RunFolder) -> str:
    if not folder.config_path.is_file():
        return "Train again."
    return f"Resume with: keras-digitnet train --resume {folder.path}"


@contextlib.contextmanager
def _saving_best(job: TrainingJob) -> Iterator[None]:
    """If training ends early, saves the best model and adds its path to the message."""
    try:
        yield
    except (DivergedError, TrainingInterrupted) as stop:
        stop.args = (f"{stop} {_save_best(job)}",)
        raise


def _save_model(model: keras.Model, job: TrainingJob) -> dict[str, float]:
    """Writes `model.keras`, calibrated on the validation images; returns the calibration.

    The file omits the optimizer and computes in float32, which every runtime
    supports.
    """
    with _keras_settings("float32"):
        bare, calibration = job.task.calibrate(model)
    with atomic_write(job.folder.model_path) as temporary:
        bare.save(temporary)
    return calibration


def _save_best(job: TrainingJob) -> str:
    """Saves the best model of an unfinished run; returns a message with its path."""
    if not job.history:
        return "No epoch was finished, so there is no model yet."
    best = best_epoch(job.history)
    model = job.new_model()
    model.load_weights(job.folder.checkpoint_path(best))
    _save_model(model, job)
    accuracy = job.history[best - 1]["val_accuracy"]
    return (
        f"The best model so far (epoch {best}, validation accuracy {accuracy:.2%}) "
        f"is saved: {job.folder.model_path}."
    )


def _finish(job: TrainingJob, calibration: dict[str, float], parameters: int) -> Run:
    """Evaluates the saved file, not the model in memory, and writes the metrics and figures."""
    folder, config, history = job.folder, job.config, job.history
    backend = keras.backend.backend()
    title = f"DigitNet {config.preset} on {job.dataset.name}"
    kept = kept_epoch(history, config.epochs)
    curves = plots.plot_curves(history, kept, f"{title}, seed {config.seed}, {backend}")
    plots.save_figure(curves, folder.curves_path)
    validation, test = job.task.evaluate(folder, title)
    metrics = {
        "dataset": job.dataset.name,
        "preset": config.preset,
        "backend": backend,
        "seed": config.seed,
        "parameters": parameters,
        "epochs": len(history),
        "kept_epoch": kept,
        **calibration,
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "versions": environment.versions(),
        "validation": validation.to_json(),
        "test": test.to_json() if test else None,
    }
    write_json(folder.metrics_path, metrics)
    shutil.rmtree(folder.checkpoints_dir, ignore_errors=True)
    return Run(folder, history, metrics, validation, test)


def _describe(config: TrainConfig, dataset: Dataset, policy: str) -> dict[str, Any]:
    return {
        "classes": list(dataset.classes),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "backend": keras.backend.backend(),
        "dtype_policy": policy,
        "train": config.to_json(),
    }
