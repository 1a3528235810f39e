"""Measurements in processes of their own, kept as small JSON files, and the machine they ran on.

    python scripts/speed_processes.py MODULE FUNCTION '{"setting": 1}'

is such a process: it prints what the function returns. A function that returns
a callable is a worker: the callable runs once for each line that comes in, so
that the rounds of several workers can take turns.
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
    """What a process runs.

    Attributes:
        function: `module.function` of a module in this folder.
        settings: Its arguments, as JSON can hold them.
        backend: `KERAS_BACKEND` there; `None` leaves the choice to the package.
    """

    function: str
    settings: dict[str, Any]
    backend: str | None = "tensorflow"


def machine() -> dict[str, Any]:
    """What a time depends on besides the settings: cores, processor, versions."""
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
    here = machine()
    packages = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return f"({here['cores']} cores, {here['processor']}, no GPU used; {packages}.)"


def measured(name: str, measurement: Measurement, results: Path) -> Any:
    """What the process returns; kept in `results` as `name`, and measured once."""

    def measure() -> Any:
        with Worker(measurement) as worker:
            return worker.answer()

    return once(name, measurement, results, measure)


def once(name: str, what: Any, results: Path, measure: Callable[[], Any]) -> Any:
    """The result kept as `name`, else what `measure` returns now, which is then kept.

    Args:
        name: Of the file in `results`.
        what: Tells what is measured, as JSON can hold it; another one is measured anew.
        results: The folder.
        measure: Measures.
    """
    found = kept(name, what, results)
    if found is None:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        found = measure()
        results.mkdir(parents=True, exist_ok=True)
        write_json(results / f"{name}.json", {**_described(what), "result": found})
    return found


def kept(name: str, what: Any, results: Path) -> Any:
    """The result kept as `name`, if `what` was measured here; else `None`."""
    path = results / f"{name}.json"
    saved = read_json(path) if path.is_file() else {}
    here = _described(what)
    return saved["result"] if {key: saved.get(key) for key in here} == here else None


def _described(what: Any) -> dict[str, Any]:
    values = {"what": what, "machine": machine()}
    described: dict[str, Any] = json.loads(json.dumps(values, default=asdict))
    return described


def in_turns(measurements: dict[str, Measurement], rounds: int) -> Iterator[dict[str, Any]]:
    """The answers of workers whose rounds alternate, so that all meet the same noise."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(each)) for name, each in measurements.items()}
        for worker in workers.values():
            worker.answer()  # that it is ready
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
        self._process.stdin.close()  # which ends a worker's loop
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
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()


class Stopwatch:
    """Seconds of training up to each epoch's end, and the test accuracy there.

    It starts at the end of the first batch, whose seconds are `compilation`:
    they hold the tracing and compiling of the step.
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
    """Of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _run(module: str, function: str, settings: str) -> None:
    # What libraries print would be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if module == "speed_training":
        # As `keras-digitnet train` does, before Keras is imported; no other module trains ours.
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
