"""Data-parallel training on several devices of one or more processes.

The processes are configured by Keras's `KERAS_DISTRIBUTION_*` variables. Each
runs the same program; only process 0 keeps the files it writes.
"""

import atexit
import contextlib
import os
import re
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
from keras_digitnet.jax_process import PROCESSES, needs_distribution


def join() -> None:
    """Connects to the other processes, if any; call it before anything is computed.

    Raises:
        DigitNetError: The processes cannot connect.
    """
    if PROCESSES not in os.environ:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM stays with Python
    # Otherwise the processes would have to agree on a seed, which each run replaces.
    keras.utils.set_random_seed(0)
    from jax.experimental import multihost_utils

    try:
        keras.distribution.initialize()
        with _stdout_as_stderr():  # gloo prints messages, which would corrupt JSON output
            multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise DigitNetError(
            "KERAS_DISTRIBUTION_*: expected the addresses, the number of processes and the index "
            f"of this one, counted from 0; received: {first_line(error)}"
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


class Group:
    """The devices that train one network together.

    Attributes:
        process: The index of this process; 0 if it is the only one.
    """

    def __init__(self, devices: int | str | None, batch_size: int) -> None:
        """Selects the devices.

        Args:
            devices: Their number, or `all`; `None` means one device, or all
                devices of several processes.
            batch_size: Images per step, divided evenly among the devices.

        Raises:
            DigitNetError: There are not so many devices, or the batch cannot
                be divided evenly.
        """
        self.process, self._processes = 0, 1
        self._parallel: _Parallel | None = None
        if not needs_distribution(devices, keras.backend.backend()):
            return
        available = keras.distribution.list_devices()
        text = str(devices or "all")
        count = len(available) if text == "all" else int(text)
        if count > len(available):
            raise DigitNetError(
                f"--devices: expected 1 to {len(available)}, or all; received: {text}. JAX can "
                "split a CPU into several: XLA_FLAGS=--xla_force_host_platform_device_count=2"
            )
        self._parallel = _Parallel(devices=available[:count], auto_shard_dataset=False)
        self.process, self._processes = self._parallel.data_shard_id, self._parallel.num_processes
        if batch_size % count or (self._processes > 1 and count < len(available)):
            raise DigitNetError(
                f"--devices: expected all devices of {self._processes} processes, and a batch size "
                f"that is a multiple of their number; received: {count} of {len(available)} "
                f"devices and {batch_size}. Change --devices or --batch-size."
            )

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which Keras places variables and data on the group's devices."""
        return self._parallel.scope() if self._parallel else contextlib.nullcontext()

    def rows(self, batch_size: int) -> slice:
        """The rows of each batch that this process computes."""
        share = batch_size // self._processes
        return slice(self.process * share, (self.process + 1) * share)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks that `fit` needs in the group's scope."""
        if self._parallel is None:
            return []
        return [
            keras.callbacks.LambdaCallback(
                on_test_begin=lambda _: setattr(self._parallel, "evaluating", True),
                on_test_end=lambda _: setattr(self._parallel, "evaluating", False),
            )
        ]

    def on_one_device(self, model: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
        """A copy of the model, made by `build`, on a single device of this process."""
        if self._parallel is None:
            return model
        single = build()
        single.set_weights(model.get_weights())
        return single

    def max_over_processes(self, number: int) -> int:
        """The maximum of `number` over all processes, so that all of them continue or stop."""
        if self._processes == 1:
            return number
        from jax.experimental import multihost_utils

        return int(np.max(multihost_utils.process_allgather(np.int32(number))))

    @contextlib.contextmanager
    def folder(self, make: Callable[[], RunFolder], resuming: bool) -> Iterator[RunFolder]:
        """The run's folder; on processes other than 0, a temporary copy shown as RUN.

        Args:
            make: Creates or returns the folder.
            resuming: Whether it holds a stopped run, whose files are copied.
        """
        if self.process == 0:
            own = make()
            self.max_over_processes(0)  # waits until the others have copied it
            yield own
            return
        with tempfile.TemporaryDirectory() as temporary:
            own = RunFolder(Path(temporary) / "RUN")
            if resuming:
                shutil.copytree(make().path, own.path)
            own.path.mkdir(exist_ok=True)
            self.max_over_processes(0)
            try:
                yield own
            except (DigitNetError, Interrupted) as error:
                error.args = (str(error).replace(str(own.path), "RUN"),)
                raise

    @contextlib.contextmanager
    def process_failures(self) -> Iterator[None]:
        """Reports the failure of another process as one DigitNetError."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            # JAX raises ValueError for some statuses of its runtime, such as UNKNOWN: Gloo ...
            of_runtime = isinstance(error, RuntimeError) or re.match("[A-Z_]+: ", str(error))
            if self._processes == 1 or not of_runtime:
                raise
            atexit.register(_exit_without_jax)
            raise DigitNetError(
                f"Expected all {self._processes} processes to keep running; received: "
                f"{first_line(error)}."
            ) from None


def _exit_without_jax() -> None:
    """Exits without JAX's shutdown, which would wait a minute for dead processes, then abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


class _Parallel(keras.distribution.DataParallel):
    """Splits training batches; validation batches, of any size, are computed on every device."""

    evaluating = False

    def get_data_layout(self, data_shape: tuple[int, ...]) -> keras.distribution.TensorLayout:
        if self.evaluating:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return super().get_data_layout(data_shape)
