"""`Model.fit` with the settings, the batches and the callbacks of a run."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_digitnet import environment
from keras_digitnet.artifacts import RunFolder, plain_name
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.distribution import Group
from keras_digitnet.networks.blocks import jit_compile
from keras_digitnet.pages.batches import Batch
from keras_digitnet.training.callbacks import (
    Checkpoint,
    EarlyStopping,
    EpochSeeds,
    Guard,
    TrainingInterrupted,
    stop_signals,
)
from keras_digitnet.training.history import History, best_epoch
from keras_digitnet.training.schedule import StepRates, WarmupCosine
from keras_digitnet.training.tasks import Task, task_of

# Steps that TensorFlow computes per call of the compiled function, without calling callbacks in
# between: an epoch of a small network takes a tenth less than with 1, with 16 as long as with 8.
# Keras has no such loop on JAX and torch.
_STEPS_PER_CALL = 8


@dataclass(frozen=True)
class TrainingJob:
    """What a run trains, with what, and how far it is.

    Attributes:
        folder: The run's folder, for checkpoints and `history.csv`.
        config: The settings.
        dataset: The images.
        group: The devices.
        history: The finished epochs; training appends to it.
        verbose: As for `keras.Model.fit`.
        callbacks: The user's, called after the run's own.
    """

    folder: RunFolder
    config: TrainConfig
    dataset: Dataset
    group: Group
    history: History
    verbose: int | str
    callbacks: Sequence[keras.callbacks.Callback]

    @functools.cached_property
    def task(self) -> Task:
        """What the network learns."""
        return task_of(self.config, self.dataset)

    def new_model(self) -> keras.Model:
        """A compiled model with new weights."""
        return build_and_compile(self.config, self.dataset)


def build_and_compile(
    config: TrainConfig, dataset: Dataset, steps: int | None = None
) -> keras.Model:
    """Builds the model and compiles it as `train` does, with AdamW.

    Args:
        config: The network, the learning rates.
        dataset: Determines the classes and the steps per epoch.
        steps: Steps per epoch; by default those of `train`.
    """
    task = task_of(config, dataset)
    # Every export contains this name.
    model = task.training_model(f"digitnet_{config.preset}_{plain_name(dataset.name)}")
    rates = StepRates(config, steps or task.steps)
    optimizer = keras.optimizers.AdamW(
        rates, weight_decay=config.weight_decay, global_clipnorm=task.max_gradient_norm
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(
        optimizer,
        task.loss,
        metrics=task.metrics,
        jit_compile=jit_compile(),
        steps_per_execution=_STEPS_PER_CALL if keras.backend.backend() == "tensorflow" else 1,
    )
    # Not `optimizer`, which `compile` wraps under mixed_float16 to scale the loss.
    model.optimizer.build(model.trainable_variables)
    return model


def feed(endless: Iterator[Batch], steps: int) -> Any:
    """The batches of an endless iterator in the form that suits `Model.fit`.

    On TensorFlow, Keras would wrap the iterator in a `tf.data` pipeline with
    autotuning, whose thread sleeps for ever longer intervals; at its end `fit`
    may wait for it as long as the training took. The pipeline ends after each
    epoch, since Keras would round the steps up to a multiple of those per call.

    Args:
        endless: The batches.
        steps: Batches per epoch.
    """
    if keras.backend.backend() != "tensorflow":
        return endless
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    first = next(endless)
    batches = itertools.chain([first], endless)
    signature = tuple(tf.TensorSpec(array.shape, array.dtype) for array in first)
    dataset = tf.data.Dataset.from_generator(
        lambda: itertools.islice(batches, steps), output_signature=signature
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(2).with_options(options)


def fit(model: keras.Model, job: TrainingJob) -> None:
    """Trains the remaining epochs and leaves the model with the weights of the kept one.

    Args:
        model: A compiled model, with the weights and the optimizer's state of
            the last epoch in the history.
        job: The run, to whose history the epochs are appended.

    Raises:
        DivergedError: The loss is not finite.
        TrainingInterrupted: Ctrl-C or SIGTERM.
        DigitNetError: The folder cannot be written to.
    """
    config, task, group, history = job.config, job.task, job.group, job.history
    done = len(history)
    patience_exhausted = done > 0 and done - best_epoch(history) >= config.epochs_of_patience
    with stop_signals() as signals, group.scope(), group.process_failures():
        model.fit(
            feed(task.batches(done, group.rows(config.batch_size)), task.steps),
            steps_per_epoch=task.steps,
            initial_epoch=done,
            epochs=done if patience_exhausted else config.epochs,
            validation_data=task.validation(),
            validation_batch_size=task.validation_batch,
            shuffle=False,  # the task shuffles
            verbose=job.verbose if environment.has_stdout() and not group.process else 0,
            callbacks=[
                WarmupCosine(config, task.steps),
                EpochSeeds(config.seed),
                *group.callbacks(),
                Guard(signals, group),
                EarlyStopping(config.epochs_of_patience, config.epochs, job.folder, history),
                Checkpoint(job.folder, history),
                *job.callbacks,
            ],
        )
        # Signals of the last epoch's validation.
        if number := group.max_over_processes(max(signals, default=0)):
            raise TrainingInterrupted("Stopped after the last epoch.", number)
