"""The backend, its devices, package versions, optional packages, and Apple's Metal plugin."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from keras_digitnet.errors import DigitNetError, did_you_mean, first_line
from keras_digitnet.jax_process import keep_freed_memory

BACKENDS = ("tensorflow", "jax", "torch")

_importing_openvino = threading.Lock()

# The user's choice, before `select_backend` sets the variable for Keras.
REQUESTED_BACKEND = os.environ.get("KERAS_BACKEND")

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


# One thread at a time starts a backend or redirects descriptor 2.
_LOCK = threading.RLock()

# Log lines of native code, of TensorFlow, XLA and LiteRT, that do not concern users.
_NOTE = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |"
    rb"(INFO|WARNING): (Created|Initialized) |WARNING: All log messages before absl::|"
    rb"To enable the following instructions: "
)


def select_backend(name: str | None = None, for_training: bool = False) -> str:
    """Selects the backend and starts Keras on it.

    The backend is `name`, else that of `KERAS_BACKEND`, else the one that Keras
    runs on, else that of `keras.json`, else TensorFlow.

    Args:
        name: One of `BACKENDS`.
        for_training: Whether the process trains; on JAX on a CPU it then
            permanently reuses the memory that it frees.

    Returns:
        The backend's name.

    Raises:
        DigitNetError: There is no such backend, it is not installed, it cannot
            start on this machine, or Keras already runs on another one.
    """
    with _LOCK:
        open_standard_descriptors()
        name = set_backend(name, for_training)
        logging.getLogger("tensorflow").addFilter(_is_no_retracing)
        with suppress_native_stderr(), starting(name):
            importlib.import_module("keras")
            devices(name)
        return name


def _is_no_retracing(record: logging.LogRecord) -> bool:
    """Whether a message of TensorFlow is not its warning of several models in one process."""
    return "retracing" not in str(record.msg)


def set_backend(name: str | None = None, for_training: bool = False) -> str:
    """Selects the backend like `select_backend`, but does not start it, which takes seconds.

    Raises:
        DigitNetError: As for `select_backend`, except if it cannot start.
    """
    name, source = _requested_backend(name)
    if name not in BACKENDS:
        raise DigitNetError(
            f"backend: expected one of {', '.join(BACKENDS)}; received: {name!r}{source}."
            + did_you_mean(name, BACKENDS)
        )
    if (running := _running_backend() or name) != name:
        raise DigitNetError(
            f"Keras already runs on {running}; received: {name!r}{source}. "
            "Choose the backend before keras is imported."
        )
    if not _is_installed(name):
        raise DigitNetError(_how_to_get(name, source))
    if name == "tensorflow" and (problem := metal_problem()):
        raise DigitNetError(problem)
    os.environ["KERAS_BACKEND"] = name
    if for_training and name == "jax":
        keep_freed_memory()
    return name


def _requested_backend(name: str | None) -> tuple[str, str]:
    """The requested backend, and for messages its source if that is not the caller."""
    if name:
        return name, ""
    if named := os.environ.get("KERAS_BACKEND"):
        return named, ", which KERAS_BACKEND names"
    if running := _running_backend():
        return running, ", on which Keras runs"
    # Keras treats invalid JSON as an empty file.
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        if named := json.loads(keras_json().read_text()).get("backend"):
            return str(named), f", which {keras_json()} names"
    return "tensorflow", ", which is Keras's default"


def _running_backend() -> str | None:
    if "keras" not in sys.modules:
        return None
    import keras  # waits for another thread that is importing it

    return str(keras.config.backend())


def keras_json() -> Path:
    """The path of Keras's settings file."""
    if named := os.environ.get("KERAS_HOME"):
        return Path(named).expanduser() / "keras.json"
    home = Path.home()
    return (home if os.access(home, os.W_OK) else Path("/tmp")) / ".keras" / "keras.json"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # from an import hook or a damaged module
        return False


def _how_to_get(name: str, source: str) -> str:
    """The message about a backend that is not installed, with the alternatives."""
    package = name if name == "tensorflow" else f"'keras_digitnet[{name}]'"
    installed = [backend for backend in BACKENDS if _is_installed(backend)]
    choose = ""
    if installed:
        choose = (
            f"Installed: {', '.join(installed)}. Choose one: KERAS_BACKEND={installed[0]} in the "
            f"environment, or --backend {installed[0]}. Or install it"
        )
    comma = "," if source else ""
    return (
        f"The backend {name}{source}{comma} is not installed. "
        f"{choose or 'Install it'}: pip install {package}"
    )


def require_tensorflow(what: str) -> None:
    """Raises DigitNetError if TensorFlow, which `what` needs on every backend, is missing."""
    if not _is_installed("tensorflow"):
        raise DigitNetError(
            f"{what}: expected TensorFlow, which it needs under every backend; "
            "received: it is not installed. Install it: pip install tensorflow"
        )


@contextlib.contextmanager
def starting(name: str) -> Iterator[None]:
    """Turns any exception of a backend that starts into a DigitNetError that says what to do."""
    try:
        yield
    except Exception as error:  # damaged installations and missing devices raise any type
        raise DigitNetError(
            f"The backend {name} is installed but cannot start; received: {first_line(error)}. "
            f"{_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    """What to do about a backend that does not start."""
    if "temporary directory" in str(error):
        return "Set the environment variable TMPDIR to a writable folder."
    if str(error).startswith("Invalid `"):  # one of Keras's settings
        return f"Change it in {keras_json()}."
    settings = f", correct {path}" if (path := keras_json()).is_file() else ""
    return f"Reinstall it{settings}, or choose another --backend."


def open_standard_descriptors() -> None:
    """Opens the null device for each closed descriptor of stdin, stdout and stderr.

    Otherwise the next opened file would get its number, and native code would
    write messages into that file. Python's closed streams become `None`, since
    writing to them fails, as TensorFlow's import does.
    """
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None and stream.closed:
            setattr(sys, name, None)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def import_extra(module: str, extra: str) -> Any:
    """Imports a module of an optional package.

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
    """Imports a module of a runtime with its telemetry turned off.

    By default ONNX Runtime reports to Microsoft and OpenVINO to Intel, and both
    store identifiers in the home folder. ONNX Runtime reads an environment
    variable when it starts. OpenVINO has no such switch, but works without its
    telemetry package, so that is hidden during the import. Telemetry stays on
    if the user has set the variable or run `opt_in_out --opt_in`.
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
    """Whether the user has turned OpenVINO's telemetry on, as `opt_in_out` stores in this file."""
    folder = "%LOCALAPPDATA%/Intel Corporation" if os.name == "nt" else "~/intel"
    try:
        consent = Path(os.path.expandvars(folder)).expanduser() / "openvino_telemetry"
        return consent.read_bytes().strip() == b"1"
    except (OSError, RuntimeError):
        return False


def has_stdout() -> bool:
    """Whether Python can print; GUI programs and services may have no streams."""
    return sys.stdout is not None and not sys.stdout.closed


@contextlib.contextmanager
def suppress_native_stderr() -> Iterator[None]:
    """Suppresses messages of native code on stderr, unless an exception is raised.

    TensorFlow prints several lines before its logging settings take effect.
    What other threads write in the meantime is printed at the end. Without
    stderr or a folder for temporary files, nothing is suppressed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _LOCK, contextlib.ExitStack() as stack:
        alone = threading.active_count() == 1
        redirected = _redirected_stderr(stack)
        if redirected is None:
            yield
            return
        terminal, notes = redirected
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(terminal, 2)
            notes.seek(0)
            lines = [line for line in notes if failed or not (alone or _NOTE.match(line))]
            with contextlib.suppress(OSError), open(terminal, "wb", closefd=False) as stderr:
                stderr.writelines(lines)


def _redirected_stderr(stack: contextlib.ExitStack) -> tuple[int, IO[bytes]] | None:
    """Redirects descriptor 2; returns a copy of it and the file, `None` if that is impossible."""
    if sys.__stderr__ is None:  # descriptor 2 is closed or another file
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):  # None or closed
        sys.stderr.flush()
    try:
        terminal = os.dup(2)
        stack.callback(os.close, terminal)
        notes = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
        os.dup2(notes.fileno(), 2)
    except OSError:
        return None
    return terminal, notes


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages, by name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if version := _version(package):
            found[package] = version
    return found


def devices(backend: str) -> list[str]:
    """The names of the backend's devices; imports the backend."""
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
    """One line about Apple's GPU plugin for TensorFlow; `None` on other systems.

    Compares installed versions only, since importing an incompatible TensorFlow
    fails.
    """
    if sys.platform != "darwin":
        return None
    if platform.machine() != "arm64":
        return "this Mac has no Apple silicon; TensorFlow computes on the CPU."
    if problem := metal_problem():
        return problem
    if not _version("tensorflow-metal"):
        return (
            "tensorflow-metal is not installed; TensorFlow computes on the CPU. "
            "KERAS_BACKEND=torch uses the GPU automatically."
        )
    return f"tensorflow-metal works with TensorFlow {_version('tensorflow')}."


def metal_problem() -> str | None:
    """Why TensorFlow cannot be imported with tensorflow-metal installed; `None` if it can.

    The plugin, last released as 1.2.0, links to a library that TensorFlow for
    macOS contains up to 2.19.
    """
    tensorflow, metal = _version("tensorflow"), _version("tensorflow-metal")
    if sys.platform != "darwin" or not tensorflow or not metal:
        return None
    major, minor = (int(part) for part in tensorflow.split(".")[:2])
    if (major, minor) < (2, 20):
        return None
    return (
        f"tensorflow-metal {metal}: expected TensorFlow 2.19 or older; received: {tensorflow}, "
        "whose import fails with it. Either: pip uninstall tensorflow-metal, "
        "or: pip install 'tensorflow<2.20'"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
