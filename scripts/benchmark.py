"""Measures speed side by side, in one run, on the machine that it runs on.

    python scripts/benchmark.py augmentation

A section prints a table of medians; each backend is a process of its own.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from keras_digitnet.config import ModelConfig
from keras_digitnet.environment import BACKENDS

BATCH_SIZE = 128
SECONDS_A_ROUND = 1.0
ROUNDS = 5

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Keeps the sections subcommands, however few they are."""


@app.command()
def augmentation() -> None:
    """Images a second through `--augmentation affine` and through `layers`."""
    table = Table(title=f"Augmentation, images a second (batch {BATCH_SIZE}, median of {ROUNDS})")
    for column in ("backend", "affine", "layers", "ratio"):
        table.add_column(column, justify="left" if column == "backend" else "right")
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            table.add_row(backend, "not installed", "", "")
            continue
        rates = _in_child("augmentation-child", backend)
        ratio = rates["affine"] / rates["layers"]
        table.add_row(backend, f"{rates['affine']:,.0f}", f"{rates['layers']:,.0f}", f"{ratio:.1f}")
    Console().print(table)


@app.command(hidden=True)
def augmentation_child() -> None:
    import keras
    import numpy as np

    from keras_digitnet.model import augment

    images = np.random.default_rng(0).random((BATCH_SIZE, 28, 28, 1), "float32")
    steps: dict[str, Callable[[], Any]] = {}
    for kind in ("affine", "layers"):
        inputs = keras.Input((28, 28, 1))
        outputs = augment(inputs, replace(ModelConfig(), augmentation=kind))
        steps[kind] = _compiled(keras.Model(inputs, outputs), images)
    print(json.dumps(_rates(steps)))


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


def _rates(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median images a second of each step; rounds alternate, so that all meet the same noise."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            count, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SECONDS_A_ROUND or count < 2:
                step()
                count += 1
            rates[name].append(count * BATCH_SIZE / elapsed)
    return {name: statistics.median(values) for name, values in rates.items()}


def _in_child(section: str, backend: str) -> dict[str, float]:
    child = subprocess.run(
        [sys.executable, __file__, section],
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    rates: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return rates


if __name__ == "__main__":
    app()
