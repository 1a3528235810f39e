"""The measurements of `benchmark.py` on trained models and augmentation, one per process."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from speed_processes import peak_memory

from keras_digitnet.config import ModelConfig
from keras_digitnet.data import load_dataset
from keras_digitnet.reading.inference import load_classifier
from keras_digitnet.serving import open_inference

BATCH_SIZE = 128
SECONDS_PER_ROUND = 1.0
ROUNDS = 5


def model(path: str, data: str, cores: int) -> dict[str, float]:
    """Measures one file: test accuracy, milliseconds per digit, digits per second in batches."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    test = load_dataset(data).test
    classifier = load_classifier(path)
    labels = classifier.predict(test.images).labels
    one, many = test.images[:1], test.images[: 16 * BATCH_SIZE]
    rates = _rates(
        {
            "one": (1, lambda: classifier.predict(one)),
            "many": (len(many), lambda: classifier.predict(many, BATCH_SIZE)),
        }
    )
    return {
        "accuracy": float(np.mean(labels == test.labels)),
        "milliseconds": 1000 / rates["one"],
        "rate": rates["many"],
    }


def growth(preset: str, images: int) -> dict[str, float]:
    """Seconds for this many images in one call, and MB of the process without the images."""
    classifier = load_classifier(preset)
    pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), "uint8")
    start = time.perf_counter()
    classifier.predict(pixels)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "memory": peak_memory() - pixels.nbytes / 1e6}


def served(address: str, binary: bool) -> float:
    """Milliseconds of client CPU time for 256 digits and a served model."""
    if not binary:  # even if the server supports it
        open_inference.supports_binary = lambda server: False
    classifier = load_classifier(address)
    images = np.random.default_rng(0).integers(0, 256, (256, 28, 28), "uint8")
    classifier.predict(images)
    rounds = []
    for _ in range(20):
        start = time.process_time()
        classifier.predict(images)
        rounds.append(1000 * (time.process_time() - start))
    return statistics.median(rounds)


def augmentation() -> dict[str, float]:
    """Images per second of each `--augmentation`, without pens and corruptions."""
    import keras

    from keras_digitnet.networks.classifier import augment

    images = np.random.default_rng(0).random((BATCH_SIZE, 28, 28, 1), "float32")
    steps: dict[str, tuple[int, Callable[[], Any]]] = {}
    for kind in ("affine", "layers"):
        inputs = keras.Input((28, 28, 1))
        config = replace(ModelConfig(), augmentation=kind, pen=0.0, degradation=0.0)
        layers = keras.Model(inputs, augment(inputs, config))
        steps[kind] = BATCH_SIZE, _compiled(layers, images)
    return _rates(steps)


def _compiled(model: Any, images: Any) -> Callable[[], Any]:
    """A step in training mode, as fast as the backend allows: a graph, XLA, or eager torch."""
    import keras

    backend = keras.backend.backend()
    tensor = keras.ops.convert_to_tensor(images)
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda: model(tensor, training=True))
        return lambda: function().numpy()
    if backend == "jax":
        import jax

        state = [variable.value for variable in model.non_trainable_variables]
        jitted = jax.jit(lambda state: model.stateless_call([], state, tensor, training=True)[0])
        return lambda: jitted(state).block_until_ready()
    return lambda: model(tensor, training=True)


def _rates(steps: dict[str, tuple[int, Callable[[], Any]]]) -> dict[str, float]:
    """Median images per second of each step, given its number of images.

    The rounds alternate, so that all steps see the same noise.
    """
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _, step in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, (images, step) in steps.items():
            count, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SECONDS_PER_ROUND or count < 2:
                step()
                count += 1
            rates[name].append(count * images / elapsed)
    return {name: statistics.median(values) for name, values in rates.items()}
