"""The measurements of `benchmark.py` on training with Keras, one per process."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from speed_processes import Stopwatch, peak_memory

from keras_digitnet.config import CLASSIFIERS, ModelConfig, TrainConfig
from keras_digitnet.data import Dataset, Split, load_dataset
from keras_digitnet.distribution import Group
from keras_digitnet.networks.blocks import jit_compile
from keras_digitnet.training.callbacks import EpochSeeds, Guard
from keras_digitnet.training.fitting import build_and_compile, feed
from keras_digitnet.training.schedule import WarmupCosine
from keras_digitnet.training.tasks import batches


class Clock(keras.callbacks.Callback):
    """Times `fit` and scores the test images after each epoch."""

    def __init__(self, test: Split) -> None:
        super().__init__()
        self._test = test
        self.watch = Stopwatch()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.watch.start_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.watch.end_batch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.watch.end_epoch()
        logits = self.model.predict(self._test.images, batch_size=500, verbose=0)
        self.watch.accuracies.append(float(np.mean(logits.argmax(axis=1) == self._test.labels)))


def curve(
    preset: str,
    seed: int,
    data: str,
    augmentation: str = "affine",
    widths: tuple[int, ...] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Trains as `kd.train` with these settings, but on all training images.

    Returns:
        Test accuracy over the seconds of training; see `speed_curves.Curve`.
    """
    dataset = load_dataset(data)
    config = _config(preset, augmentation, widths, seed=seed, **settings)
    train = _joined(dataset)
    keras.utils.set_random_seed(seed)
    steps = len(train) // config.batch_size
    model = build_and_compile(config, dataset, steps)
    clock = Clock(dataset.test)
    _fit(model, train, config, steps, clock)
    return clock.watch.curve()


def keras_convnet_curve(epochs: int, seed: int, data: str) -> dict[str, Any]:
    """The convnet of keras.io's MNIST example, reimplemented from its description.

    It uses our `feed`: without it, `fit` waits at the end of epochs.
    """
    dataset = load_dataset(data)
    train = _joined(dataset)
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    test = Split((dataset.test.images / 255).astype("float32"), dataset.test.labels)
    clock = Clock(test)
    train = Split((train.images / 255).astype("float32"), train.labels)
    steps = len(train) // 128
    model.fit(
        feed(batches(train, 128, steps, seed, 0), steps),
        steps_per_epoch=steps,
        epochs=epochs,
        verbose=0,
        callbacks=[clock],
    )
    return clock.watch.curve()


def _joined(dataset: Dataset) -> Split:
    """All training images: without model selection, none are held out."""
    parts = dataset.train, dataset.validation
    return Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def throughput(preset: str, augmentation: str, steps: int) -> Callable[[], dict[str, float]]:
    """Returns a function that trains for some steps.

    It returns images per second and peak memory in MB.
    """
    config = _config(preset, augmentation, epochs=1)
    dataset = _random_dataset(60_000)
    model = build_and_compile(config, dataset)
    _fit(model, dataset.train, config, steps)

    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        _fit(model, dataset.train, config, steps)
        rate = steps * config.batch_size / (time.perf_counter() - start)
        return {"rate": rate, "memory": peak_memory()}

    return one_round


class EveryStep(keras.callbacks.Callback):
    """Sets the learning rate before each step and reads the loss after it, unlike ours."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 1e-3 / (1 + batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        assert np.isfinite(logs["loss"])


def overhead(callbacks: str, steps: int) -> Callable[[], float]:
    """Returns a function that trains a tiny network and returns milliseconds per step.

    Args:
        callbacks: `none`, `ours` (those that act on steps), or `every step`.
        steps: Steps per call.
    """
    model = ModelConfig(widths=(4,), depths=(1,), augmentation="none")
    config = TrainConfig(model=model, epochs=1, batch_size=32)
    dataset = _random_dataset(1000)
    network = build_and_compile(config, dataset, steps)
    given: list[keras.callbacks.Callback] = []
    if callbacks == "ours":
        given = [
            WarmupCosine(config, steps),
            EpochSeeds(0),
            Guard([], Group(None, 1)),
        ]
    else:
        optimizer = keras.optimizers.AdamW(1e-3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit_compile())
    if callbacks == "every step":
        given = [EveryStep()]

    def one_round() -> float:
        stream = feed(batches(dataset.train, config.batch_size, steps, 0, 0), steps)
        start = time.perf_counter()
        network.fit(stream, steps_per_epoch=steps, verbose=0, callbacks=given)
        return 1e3 * (time.perf_counter() - start) / steps

    one_round()  # compiles
    return one_round


def growth(preset: str, images: int) -> dict[str, float]:
    """Seconds of an epoch over this many images, without the first batch, and MB without them."""
    config = _config(preset, "affine", epochs=1)
    dataset = _random_dataset(images)
    clock = Clock(dataset.test)
    steps = images // config.batch_size
    _fit(build_and_compile(config, dataset), dataset.train, config, steps, clock)
    own = dataset.train.images.nbytes + dataset.train.labels.nbytes
    return {"seconds": clock.watch.seconds[-1], "memory": peak_memory() - own / 1e6}


def _config(
    preset: str, augmentation: str, widths: tuple[int, ...] | None = None, **settings: Any
) -> TrainConfig:
    model = CLASSIFIERS[preset].model
    model = replace(model, augmentation=augmentation, widths=widths or model.widths)
    return TrainConfig(preset=preset, model=model, **settings)


def _fit(
    model: keras.Model,
    train: Split,
    config: TrainConfig,
    steps: int,
    *callbacks: keras.callbacks.Callback,
) -> None:
    """Fits as `keras_digitnet.train` does, but writes nothing."""
    model.fit(
        feed(batches(train, config.batch_size, steps, config.seed, 0), steps),
        steps_per_epoch=steps,
        epochs=config.epochs,
        verbose=0,
        callbacks=[WarmupCosine(config, steps), *callbacks],
    )


def _random_dataset(images: int) -> Dataset:
    """Random images, since their content does not affect timings, with a small test split."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, 28, 28, 1), "uint8")
    labels = random.integers(0, 10, images)
    few = Split(pixels[:100], labels[:100])
    return Dataset("random", "random", tuple("0123456789"), Split(pixels, labels), few, few)
