"""Which backend computes, on what, and in which versions; Apple's plugin included."""

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_digitnet.errors import DigitNetError, did_you_mean, first_line

BACKENDS = ("tensorflow", "jax", "torch")

_importing_openvino = threading.Lock()

# What the user named, before `select_backend` names one to Keras.
NAMED_BACKEND = os.environ.get("KERAS_BACKEND")

_PACKAGES = (
    "keras_digitnet",
    "keras",
    "tensorflow",
    "tensorflow-metal",
    "jax",
    "torch",
    "numpy",
    "scikit-learn",
    "scipy",
    "matplotlib",
    "pillow",
    "onnxruntime",
    "tf2onnx",
    "ai-edge-litert",
    "openvino",
    "tensorflow-serving-api",
)


def select_backend(name: str | None = None, for_training: bool = False) -> str:
    """Settles the backend before Keras is imported: `name`, else `KERAS_BACKEND`, else TensorFlow.

    Args:
        name: One of `BACKENDS`.
        for_training: Whether the process is there to train; on JAX it then
            keeps the memory that it frees, for good.

    Raises:
        DigitNetError: No such backend, it is not installed, it cannot start on
            this machine, or Keras already runs on another one.
    """
    name = name_backend(name, for_training)
    try:
        with native_notes_dropped():
            devices(name)
    except Exception as error:  # whatever a damaged installation or a missing device raises
        raise DigitNetError(
            f"The backend {name} is installed but cannot start; received: {first_line(error)}. "
            "Install it anew, or choose another --backend."
        ) from error
    return name


def name_backend(name: str | None = None, for_training: bool = False) -> str:
    """`select_backend` without starting the backend, which takes seconds.

    Raises:
        DigitNetError: As `select_backend`, but for a backend that cannot start.
    """
    name = name or os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name not in BACKENDS:
        raise DigitNetError(
            f"backend: expected one of {', '.join(BACKENDS)}; received: {name!r}."
            + did_you_mean(name, BACKENDS)
        )
    if "keras" in sys.modules and (running := sys.modules["keras"].config.backend()) != name:
        raise DigitNetError(
            f"Keras already runs on {running}; received: {name!r}. "
            "Choose the backend before keras is imported."
        )
    if importlib.util.find_spec(name) is None:
        extra = "keras_digitnet" if name == "tensorflow" else f"keras_digitnet[{name}]"
        raise DigitNetError(
            f"The backend {name} is not installed. Install it: pip install '{extra}'"
        )
    if name == "tensorflow" and (problem := metal_problem()):
        raise DigitNetError(problem)
    os.environ["KERAS_BACKEND"] = name
    if for_training and name == "jax":
        _keep_freed_memory()
    return name


def import_extra(module: str, extra: str) -> Any:
    """The module of an optional package.

    Raises:
        DigitNetError: It is not installed; the message names the extra.
    """
    try:
        return import_runtime(module)
    except ImportError as error:
        raise DigitNetError(
            f"{module.partition('.')[0]}: expected this package; received: {first_line(error)}. "
            f"Install it: pip install 'keras_digitnet[{extra}]'"
        ) from None


def import_runtime(module: str) -> Any:
    """The module of a runtime, which then reports its use to nobody.

    Unless told otherwise, ONNX Runtime reports to Microsoft and OpenVINO to
    Intel, and both keep identifiers in the home folder. The one looks at an
    environment variable when it starts; the other has no such switch, but does
    without the package that reports where that is not installed. A user who has
    set the variable, or run `opt_in_out --opt_in`, gets what was asked for.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if module != "openvino" or _reports_openvino():
        return importlib.import_module(module)
    with _importing_openvino:
        reporting = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            return importlib.import_module(module)
        finally:
            del sys.modules["openvino_telemetry"]
            if reporting is not None:
                sys.modules["openvino_telemetry"] = reporting


def _reports_openvino() -> bool:
    """Whether the user has asked for it, which `opt_in_out` notes in this file."""
    folder = "%LOCALAPPDATA%/Intel Corporation" if os.name == "nt" else "~/intel"
    try:
        consent = Path(os.path.expandvars(folder)).expanduser() / "openvino_telemetry"
        return consent.read_bytes().strip() == b"1"
    except (OSError, RuntimeError):
        return False


def _keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, from now on, where the C library is glibc.

    XLA takes the memory of each training step anew and gives it back after it;
    that Linux then hands it out page by page makes a third of a step of `base`.
    It counts only before a library starts its threads.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (
            (-8, 1),  # M_ARENA_MAX: one heap for all threads, since others cannot grow so large
            (-4, 0),  # M_MMAP_MAX: nothing beside the heap
            (-1, -1),  # M_TRIM_THRESHOLD: the heap does not shrink
        ):
            mallopt(option, value)


@contextlib.contextmanager
def native_notes_dropped() -> Iterator[None]:
    """Drops what native code writes to stderr, unless an exception makes it matter.

    TensorFlow greets with several lines for its own developers, before any of
    its settings for logging take effect.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if version := _version(package):
            found[package] = version
    return found


def devices(backend: str) -> list[str]:
    """What the backend can compute on, in its own words. Imports the backend."""
    if backend == "tensorflow":
        import tensorflow

        return [device.name for device in tensorflow.config.list_physical_devices()]
    if backend == "jax":
        import jax

        return [str(device) for device in jax.devices()]
    import torch

    found = ["cpu"]
    found += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def metal_status() -> str | None:
    """One line on Apple's GPU plugin for TensorFlow; `None` where there is no Mac.

    Looks at the installed versions only: where the two do not fit, importing
    TensorFlow itself fails.
    """
    if sys.platform != "darwin":
        return None
    if platform.machine() != "arm64":
        return "this Mac is no Apple-silicon Mac; TensorFlow computes on the CPU."
    if problem := metal_problem():
        return problem
    if not _version("tensorflow-metal"):
        return (
            "tensorflow-metal is not installed; TensorFlow computes on the CPU. "
            "KERAS_BACKEND=torch uses the GPU by itself."
        )
    return f"tensorflow-metal works with TensorFlow {_version('tensorflow')}."


def metal_problem() -> str | None:
    """Why TensorFlow cannot be imported beside tensorflow-metal, or `None` where it can.

    The plugin (1.2.0 is its last) links to a library that TensorFlow for macOS
    has up to 2.19 and lacks from 2.20.
    """
    tensorflow, metal = _version("tensorflow"), _version("tensorflow-metal")
    if sys.platform != "darwin" or not tensorflow or not metal:
        return None
    major, minor = (int(part) for part in tensorflow.split(".")[:2])
    if (major, minor) < (2, 20):
        return None
    return (
        f"tensorflow-metal {metal} needs TensorFlow 2.19 or older; received: {tensorflow}, whose "
        "import fails beside it. Either: pip uninstall tensorflow-metal, "
        "or: pip install 'tensorflow<2.20'"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
