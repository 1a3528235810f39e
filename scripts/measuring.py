"""Measurements in processes of their own, kept as small JSON files, and the machine they ran on.

    python scripts/measuring.py MODULE FUNCTION '{"setting": 1}'

is such a process: it prints what the function returns, and its peak memory. A
function that returns a callable is a worker: the callable runs once for each
line that comes in, so that the rounds of several workers can take turns.
"""

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from keras_digitnet.artifacts import read_json, write_json
from keras_digitnet.environment import versions

RESULTS_DIR = Path(__file__).parent / "results" / "speed"


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


def kept(name: str, settings: dict[str, Any], results: Path) -> Any:
    """The result kept as `name`, if it was measured here with these settings; else `None`."""
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    found = read_json(path)
    here = json.loads(json.dumps({"settings": settings, "machine": machine()}))
    return found["result"] if {key: found.get(key) for key in here} == here else None


def keep(name: str, settings: dict[str, Any], results: Path, result: Any) -> None:
    results.mkdir(parents=True, exist_ok=True)
    value = {"settings": settings, "machine": machine(), "result": result}
    write_json(results / f"{name}.json", value)


def measured(
    name: str,
    function: str,
    settings: dict[str, Any],
    results: Path,
    backend: str = "tensorflow",
) -> Any:
    """What `module.function(**settings)` returns in a fresh process; kept as `name`."""
    keys = {"function": function, "backend": backend, **settings}
    result = kept(name, keys, results)
    if result is None:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        with Worker(function, settings, backend) as worker:
            result = worker.answer()
        keep(name, keys, results, result)
    return result


class Worker:
    """A process that runs `module.function(**settings)`."""

    def __init__(self, function: str, settings: dict[str, Any], backend: str) -> None:
        module, _, function = function.partition(".")
        environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, module, function, json.dumps(settings)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # which ends a worker's loop
        self._process.wait()

    def answer(self) -> Any:
        """The next line that the process prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r}: ended without an answer")
        return json.loads(line)

    def round(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()


def peak_memory() -> float:
    """Of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1024)


def _run(module: str, function: str, settings: str) -> None:
    # What libraries print would be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    result = getattr(importlib.import_module(module), function)(**json.loads(settings))
    if not callable(result):
        print(json.dumps({**result, "memory": peak_memory()}), file=answers, flush=True)
        return
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(result()), file=answers, flush=True)


if __name__ == "__main__":
    _run(*sys.argv[1:])
