"""`Model.fit` with the settings, the feed and the callbacks of a run."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_digitnet import environment
from keras_digitnet.artifacts import RunFolder, plain_name
from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.distribution import Group
from keras_digitnet.networks.blocks import jit_compile
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
from keras_digitnet.training.tasks import Batch, task_of


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


def fit(
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
    with stop_signals() as signals, group.scope(), group.losses_told():
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
                EpochSeeds(config.seed),
                *group.callbacks(),
                Guard(signals, group),
                EarlyStopping(config.epochs_of_patience, folder, history),
                Checkpoint(folder, history),
                *callbacks,
            ],
        )
        if number := group.agreed(max(signals, default=0)):  # in the last epoch's validation
            raise TrainingInterrupted("Stopped after the last epoch.", number)
