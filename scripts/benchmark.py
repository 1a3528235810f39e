"""Measures speed side by side, in one run, on the machine that it runs on.

    python scripts/benchmark.py augmentation
    python scripts/benchmark.py formats --data mnist --write

A section prints a table of medians; each backend and each runtime is a process
of its own.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import readme
import typer

from keras_digitnet.cli import print_table
from keras_digitnet.config import EXPORT_FORMATS, ModelConfig
from keras_digitnet.environment import BACKENDS

BATCH_SIZE = 128
SECONDS_A_ROUND = 1.0
ROUNDS = 5

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command()
def augmentation() -> None:
    """Images a second through `--augmentation affine` and through `layers`."""
    rows = []
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            rows.append((backend, "not installed", "", ""))
            continue
        rates = _in_child(["augmentation-child"], KERAS_BACKEND=backend)
        ratio = rates["affine"] / rates["layers"]
        rows.append((backend, f"{rates['affine']:,.0f}", f"{rates['layers']:,.0f}", f"{ratio:.1f}"))
    title = f"Augmentation, images a second (batch {BATCH_SIZE}, median of {ROUNDS})"
    print_table(title, ("backend", "affine", "layers", "ratio"), rows)


@app.command()
def formats(
    data: Annotated[str, typer.Option(help="Whose test digits are read.")] = "mnist",
    write: Annotated[bool, typer.Option(help="Put the tables into README.md.")] = False,
) -> None:
    """Size, agreement, accuracy and speed of every exported format of every preset, on one core."""
    from keras_digitnet.artifacts import preset_dir
    from keras_digitnet.environment import select_backend

    select_backend("tensorflow")
    from keras_digitnet.export import export_model

    columns = (
        "format",
        "size",
        "largest difference",
        "test accuracy",
        "one digit",
        "digits a second",
    )
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in ("base", "small", "nano"):
            keras_path = preset_dir(preset) / "model.keras"
            artifacts = export_model(keras_path, Path(folder, preset), EXPORT_FORMATS)
            artifacts += export_model(keras_path, Path(folder, preset), ["litert"], "int8")
            paths = [(keras_path, "Keras", keras_path.stat().st_size, "")]
            paths += [(a.path, a.format, a.size, f"{a.difference:.0e}") for a in artifacts]
            rows = []
            for path, name, size, difference in paths:
                found = _in_child(["format-child", str(path), data], KERAS_BACKEND="tensorflow")
                rows.append(
                    (
                        name,
                        f"{size / 1e3:,.0f} kB",
                        difference,
                        f"{found['accuracy']:.2%}",
                        f"{found['milliseconds']:.2f} ms",
                        f"{found['rate']:,.0f}",
                    )
                )
            print_table(preset, columns, rows)
            tables.append(f"`{preset}`:\n\n{readme.table(columns, rows)}")
    if write:
        readme.write_block("formats", "\n\n".join(tables))


@app.command(hidden=True)
def format_child(path: str, data: str) -> None:
    """One process and one core, so that every runtime has the same."""
    import numpy as np

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from keras_digitnet.data import load_dataset
    from keras_digitnet.inference import load

    test = load_dataset(data).test
    classifier = load(path)
    labels = classifier.predict(test.images).labels
    one, many = test.images[:1], test.images[: 16 * BATCH_SIZE]
    rates = _rates(
        {
            "one": (1, lambda: classifier.predict(one)),
            "many": (len(many), lambda: classifier.predict(many, BATCH_SIZE)),
        }
    )
    print(
        json.dumps(
            {
                "accuracy": float(np.mean(labels == test.labels)),
                "milliseconds": 1000 / rates["one"],
                "rate": rates["many"],
            }
        )
    )


@app.command(hidden=True)
def augmentation_child() -> None:
    import keras
    import numpy as np

    from keras_digitnet.model import augment

    images = np.random.default_rng(0).random((BATCH_SIZE, 28, 28, 1), "float32")
    steps: dict[str, tuple[int, Callable[[], Any]]] = {}
    for kind in ("affine", "layers"):
        inputs = keras.Input((28, 28, 1))
        outputs = augment(
            inputs, replace(ModelConfig(), augmentation=kind, pen=0.0, degradation=0.0)
        )
        steps[kind] = BATCH_SIZE, _compiled(keras.Model(inputs, outputs), images)
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


def _rates(steps: dict[str, tuple[int, Callable[[], Any]]]) -> dict[str, float]:
    """Median images a second of each step, given how many it takes.

    The rounds alternate, so that all meet the same noise.
    """
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _, step in steps.values():
        step()
    for _ in range(ROUNDS):
        for name, (images, step) in steps.items():
            count, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < SECONDS_A_ROUND or count < 2:
                step()
                count += 1
            rates[name].append(count * images / elapsed)
    return {name: statistics.median(values) for name, values in rates.items()}


def _in_child(arguments: list[str], **environment: str) -> dict[str, float]:
    child = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    app()
