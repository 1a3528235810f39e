"""Training on several devices, of this process or of several: Keras splits each batch among them.

The processes are those that Keras's `KERAS_DISTRIBUTION_*` variables tell of;
each runs the same program, and process 0 alone leaves something behind.
"""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_digitnet.artifacts import RunFolder
from keras_digitnet.errors import DigitNetError, Interrupted, first_line

# `keras.distribution` of TensorFlow warns of itself, torch has none.
BACKENDS = ("jax",)
_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"


def join(devices: int | str | None) -> None:
    """Meets the other processes, where there are any; comes before anything is computed."""
    _require_backend(devices)
    if _PROCESSES not in os.environ:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM stays with Python
    keras.utils.set_random_seed(0)  # else the processes compute one, which a run replaces
    from jax.experimental import multihost_utils

    try:
        keras.distribution.initialize()
        with _stdout_as_stderr():  # gloo greets, and not in JSON
            multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise DigitNetError(
            "KERAS_DISTRIBUTION_*: expected the addresses, the number of processes and this one's "
            f"number, from 0 on; received: {first_line(error)}"
        ) from None


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _require_backend(devices: int | str | None) -> bool:
    """Whether several devices are asked for; raises DigitNetError where Keras has none."""
    several = devices not in (None, 1, "1") or _PROCESSES in os.environ
    if several and (backend := keras.backend.backend()) not in BACKENDS:
        raise DigitNetError(
            f"--devices: expected the backend {' or '.join(BACKENDS)}, where Keras trains on "
            f"several devices; received: {backend}. "
            f"Use: keras-digitnet train --backend {BACKENDS[0]} --devices {devices or 'all'}"
        )
    return several


class Group:
    """The devices that train one network together; `process` is this one's number."""

    def __init__(self, devices: int | str | None, batch_size: int) -> None:
        """Takes `devices` of them, or `all`; `None` is one, or all of several processes."""
        self.process, self._processes = 0, 1
        self._parallel: _Parallel | None = None
        if not _require_backend(devices):
            return
        there = keras.distribution.list_devices()
        text = str(devices or "all")
        count = len(there) if text == "all" else int(text) if text.isdecimal() else 0
        if not 1 <= count <= len(there):
            raise DigitNetError(
                f"--devices: expected 1 to {len(there)}, or all; received: {text}. JAX makes "
                "several of a CPU: XLA_FLAGS=--xla_force_host_platform_device_count=2"
            )
        self._parallel = _Parallel(devices=there[:count], auto_shard_dataset=False)
        self.process, self._processes = self._parallel.data_shard_id, self._parallel.num_processes
        if batch_size % count or (self._processes > 1 and count < len(there)):
            raise DigitNetError(
                f"--devices: expected all of {self._processes} processes, and a batch that they "
                f"share evenly; received: {count} of {len(there)} devices and a batch of "
                f"{batch_size}. Change --devices or --batch-size."
            )

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Whatever Keras makes and computes inside is the group's."""
        return self._parallel.scope() if self._parallel else contextlib.nullcontext()

    def rows(self, batch_size: int) -> slice:
        """Which rows of each batch this process computes."""
        share = batch_size // self._processes
        return slice(self.process * share, (self.process + 1) * share)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        if self._parallel is None:
            return []
        return [
            keras.callbacks.LambdaCallback(
                on_test_begin=lambda _: setattr(self._parallel, "judging", True),
                on_test_end=lambda _: setattr(self._parallel, "judging", False),
            )
        ]

    def on_one_device(self, model: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
        """The model, whose weights all devices share, for this process and one device alone."""
        if self._parallel is None:
            return model
        alone = build()
        alone.set_weights(model.get_weights())
        return alone

    def agreed(self, number: int) -> int:
        """The highest of a number that each process has, so that all go on or stop."""
        if self._processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(np.max(multihost_utils.process_allgather(np.int32(number))))

    @contextlib.contextmanager
    def folder(self, make: Callable[[], RunFolder], going_on: bool) -> Iterator[RunFolder]:
        """The run's folder; for all but process 0 a copy, gone at the end, called RUN."""
        if self.process == 0:
            own = make()
            self.agreed(0)  # the others have their copies
            yield own
            return
        with tempfile.TemporaryDirectory() as temporary:
            own = RunFolder(Path(temporary) / "RUN")
            if going_on:
                shutil.copytree(make().path, own.path)
            own.path.mkdir(exist_ok=True)
            self.agreed(0)
            try:
                yield own
            except (DigitNetError, Interrupted) as error:
                error.args = (str(error).replace(str(own.path), "RUN"),)
                raise

    @contextlib.contextmanager
    def losses_told(self) -> Iterator[None]:
        """Makes one message of what is raised where another process has died."""
        try:
            yield
        except RuntimeError as error:
            if self._processes == 1:
                raise
            atexit.register(_leave)
            raise DigitNetError(
                f"Expected all {self._processes} processes to go on; received: {first_line(error)}."
            ) from None


def _leave() -> None:
    """Ends without JAX, which at the end would wait a minute for the dead, and then abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


class _Parallel(keras.distribution.DataParallel):
    """Splits what is learned from; validation, of any size, is computed whole on every device."""

    judging = False

    def get_data_layout(self, data_shape: tuple[int, ...]) -> keras.distribution.TensorLayout:
        if self.judging:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)
