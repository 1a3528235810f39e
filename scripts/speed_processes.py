"""Runs measurements in separate processes and stores them, with the machine, as small JSON files.

    python scripts/speed_processes.py MODULE FUNCTION '{"setting": 1}'

is such a process: it prints what the function returns. A function that returns
a callable is a worker: the callable runs once per line of standard input, so
that the rounds of several workers can alternate.
"""

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_digitnet.artifacts import read_json, write_json
from keras_digitnet.environment import select_backend, versions


@dataclass(frozen=True)
class Measurement:
    """A function to measure, in a process.

    Attributes:
        function: `module.function` of a module in this folder.
        settings: Its arguments, serializable as JSON.
        backend: `KERAS_BACKEND` in the process; `None` leaves it unset.
    """

    function: str
    settings: dict[str, Any]
    backend: str | None = "tensorflow"


def machine() -> dict[str, Any]:
    """What timings depend on besides the settings: cores, processor, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    used = ("python", "keras", "tensorflow", "jax", "torch", "onnxruntime")
    found = versions()
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.processor(),
        "versions": {name: found[name] for name in used if name in found},
    }


def machine_line() -> str:
    """The machine, as a line below a table."""
    here = machine()
    packages = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return f"({here['cores']} cores, {here['processor']}, no GPU used; {packages}.)"


def measured(name: str, measurement: Measurement, results: Path) -> Any:
    """The result of the process; stored in `results` as `name`, so that it is measured once."""

    def measure() -> Any:
        with Worker(measurement) as worker:
            return worker.answer()

    return once(name, measurement, results, measure)


def once(name: str, what: Any, results: Path, measure: Callable[[], Any]) -> Any:
    """The result stored as `name`, or that of `measure`, which is then stored.

    Args:
        name: Name of the file in `results`, without suffix.
        what: Describes the measurement, serializable as JSON; if it differs
            from the stored description, `measure` is called again.
        results: The folder.
        measure: Makes the measurement.
    """
    found = stored(name, what, results)
    if found is None:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        found = measure()
        results.mkdir(parents=True, exist_ok=True)
        write_json(results / f"{name}.json", {**_described(what), "result": found})
    return found


def stored(name: str, what: Any, results: Path) -> Any:
    """The result stored as `name` if it is of `what` on this machine, otherwise `None`."""
    path = results / f"{name}.json"
    saved = read_json(path) if path.is_file() else {}
    here = _described(what)
    return saved["result"] if {key: saved.get(key) for key in here} == here else None


def _described(what: Any) -> dict[str, Any]:
    values = {"what": what, "machine": machine()}
    described: dict[str, Any] = json.loads(json.dumps(values, default=asdict))
    return described


def in_turns(measurements: dict[str, Measurement], rounds: int) -> Iterator[dict[str, Any]]:
    """The answers of workers whose rounds alternate, so that all see the same noise."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(each)) for name, each in measurements.items()}
        for worker in workers.values():
            worker.answer()  # waits until it is ready
        for _ in range(rounds):
            yield {name: worker.round() for name, worker in workers.items()}


class Worker:
    """A process that runs a measurement."""

    def __init__(self, measurement: Measurement) -> None:
        module, _, function = measurement.function.partition(".")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("KERAS_BACKEND", None)
        if measurement.backend:
            environment["KERAS_BACKEND"] = measurement.backend
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115  # `__exit__` closes it
        self._process = subprocess.Popen(
            [sys.executable, __file__, module, function, json.dumps(measurement.settings)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # ends a worker's loop
        self._process.wait()
        self._messages.close()

    def answer(self) -> Any:
        """The next line that the process prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._messages.seek(0)
            last = self._messages.read()[-2000:]
            raise RuntimeError(f"{self._process.args!r}: ended without an answer:\n{last}")
        return json.loads(line)

    def round(self) -> Any:
        """Runs a worker's callable once; returns its result."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()


class Stopwatch:
    """Seconds of training until the end of each epoch, and the test accuracy there.

    It starts after the first batch, whose seconds, `compilation`, include
    tracing and compiling the step.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._trained = 0.0
        self.compilation = 0.0
        self.seconds: list[float] = []
        self.accuracies: list[float] = []

    def start_epoch(self) -> None:
        self._since = time.perf_counter()

    def end_batch(self) -> None:
        if not self.compilation:
            self.compilation = time.perf_counter() - self._since
            self._since = time.perf_counter()

    def end_epoch(self) -> None:
        self._trained += time.perf_counter() - self._since
        self.seconds.append(self._trained)

    def curve(self) -> dict[str, Any]:
        return {
            "compilation": self.compilation,
            "seconds": self.seconds,
            "accuracies": self.accuracies,
            "memory": peak_memory(),
        }


def peak_memory() -> float:
    """Peak memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _run(module: str, function: str, settings: str) -> None:
    # Prints of libraries go to stderr: on stdout they would be read as answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if module == "speed_training":
        # As `keras-digitnet train` does, before Keras is imported.
        select_backend(for_training=True)
    result = getattr(importlib.import_module(module), function)(**json.loads(settings))
    if not callable(result):
        print(json.dumps(result), file=answers, flush=True)
        return
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(result()), file=answers, flush=True)


if __name__ == "__main__":
    _run(*sys.argv[1:])
