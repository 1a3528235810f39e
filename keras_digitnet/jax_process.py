"""What is settled before JAX starts: devices, memory reuse and the compilation cache."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys
import zlib
from pathlib import Path

from keras_digitnet.artifacts import require_folder
from keras_digitnet.errors import DigitNetError

# Keras distributes training on this backend; on TensorFlow that is experimental, on torch missing.
DISTRIBUTING = "jax"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def needs_distribution(devices: int | str | None, backend: str) -> bool:
    """Whether training on these devices, or in several processes, is to be distributed.

    Args:
        devices: A number, `all` or `None`, as for `keras_digitnet.distribution.Group`.
        backend: The Keras backend.

    Raises:
        DigitNetError: `devices` is neither, or the backend does not support it.
    """
    if not (devices in (None, "all") or (str(devices).isdecimal() and int(devices) > 0)):
        raise DigitNetError(f"--devices: expected a number from 1 on, or all; received: {devices}.")
    several = devices not in (None, 1, "1") or PROCESSES in os.environ
    if several and backend != DISTRIBUTING:
        raise DigitNetError(
            f"--devices: expected the backend {DISTRIBUTING}, which can train on several devices; "
            f"received: {backend}. "
            f"Use: keras-digitnet train --backend {DISTRIBUTING} --devices {devices or 'all'}"
        )
    return several


def enable_compilation_cache() -> None:
    """Sets JAX's compilation cache, unless the user has set or disabled it.

    JAX creates the folder on the first write. If it cannot be created, there
    is no cache. Programs for one processor may fail on another that shares the
    home folder, so each kind has its own folder.
    """
    if _CACHE_VARIABLE in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no usable home folder
        folder = _cache_folder()
        require_folder(folder)
        os.environ[_CACHE_VARIABLE] = str(folder)
        # By default JAX caches programs that took a second; a command compiles many smaller ones.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def compilation_cache() -> str | None:
    """The folder of JAX's compilation cache; `None` without a cache."""
    return os.environ.get(_CACHE_VARIABLE) or None


def _cache_folder() -> Path:
    if os.name == "nt":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "keras_digitnet" / "jax" / f"{platform.machine()}-{_features()}"


def _features() -> str:
    """A short hash of the processor's features."""
    described = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{zlib.crc32(described.encode()):08x}"


def keep_freed_memory() -> None:
    """Lets this process reuse the memory that it frees, for JAX on the CPU under Linux.

    XLA allocates and frees the memory of each training step; getting it back
    from Linux page by page takes a third of a step of `base`. Has an effect only
    before a library starts threads, and only with glibc.
    """
    if sys.platform != "linux" or _has_accelerator():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (
            (-8, 1),  # M_ARENA_MAX: one heap for all threads, since other arenas stay small
            (-4, 0),  # M_MMAP_MAX: no allocations outside the heap
            (-1, -1),  # M_TRIM_THRESHOLD: never shrink the heap
        ):
            mallopt(option, value)


def _has_accelerator() -> bool:
    """Whether JAX would use an accelerator: a plugin is installed, and JAX_PLATFORMS allows it.

    Asking JAX would start its threads.
    """
    if named := os.environ.get("JAX_PLATFORMS"):
        return named != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
