"""A whole run, and everything that it leaves behind."""

import contextlib
import functools
import logging
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_digitnet import environment, plots
from keras_digitnet.artifacts import (
    RunFolder,
    atomic_write,
    create_run_folder,
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
from keras_digitnet.networks.blocks import DTYPES, count_parameters, network_dtype
from keras_digitnet.reading.inference import find_keras_file
from keras_digitnet.training.callbacks import DivergedError, TrainingInterrupted
from keras_digitnet.training.fitting import build_and_compile, fit
from keras_digitnet.training.history import History, best_epoch, read_history
from keras_digitnet.training.tasks import task_of

logger = logging.getLogger(__name__)


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
    history = read_history(folder)
    if history:
        _load_checkpoint(model, folder.checkpoint_path(len(history)))
    elif config.start is not None:
        _load_start(model, config.start)
    kept = ""
    try:
        with _best_kept(folder, config, dataset, history):
            fit(model, folder, config, dataset, history, verbose, callbacks, group)
        model = group.on_one_device(model, lambda: build_and_compile(config, dataset))
        calibration = _save_model(model, folder, config, dataset)
        kept = f" The model is kept: {folder.model_path}."
        if config.export and not group.process and not (folder.servable_dir / "1").exists():
            export_model(folder.model_path, folder.servable_dir.parent)
        return _finish(folder, config, dataset, history, calibration, count_parameters(model))
    except DivergedError:
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


@contextlib.contextmanager
def _best_kept(
    folder: RunFolder, config: TrainConfig, dataset: Dataset, history: History
) -> Iterator[None]:
    """Whatever ends training early, the best model is saved and the message says so."""
    try:
        yield
    except (DivergedError, TrainingInterrupted) as stop:
        stop.args = (f"{stop} {_keep_best(folder, config, dataset, history)}",)
        raise


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


def _describe(config: TrainConfig, dataset: Dataset, policy: str) -> dict[str, Any]:
    return {
        "classes": list(dataset.classes),
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "backend": keras.backend.backend(),
        "dtype_policy": policy,
        "train": config.to_json(),
    }
