"""What a process settles before JAX starts in it: what memory and which programs it keeps."""

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

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep_compiled_programs() -> None:
    """Lets JAX find what an earlier process compiled, unless the user has said where.

    JAX makes the folder when it writes there first. Where it could not, there
    is no cache. Programs for one processor may fail on another, to which a home
    folder may go too, so each kind has a folder of its own.
    """
    if _CACHE_VARIABLE in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, or a broken one
        folder = _cache_folder()
        require_folder(folder)
        os.environ[_CACHE_VARIABLE] = str(folder)
        # JAX keeps what took it a second; a command starts many smaller ones.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def compiled_programs() -> str | None:
    """The folder of the programs that JAX keeps; `None` where it keeps none."""
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
    """Of the processor, as a short name."""
    described = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{zlib.crc32(described.encode()):08x}"


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, where JAX computes on the CPU of a Linux.

    XLA takes the memory of each training step anew and gives it back after it;
    that Linux then hands it out page by page makes a third of a step of `base`.
    It counts only before a library starts its threads, and with glibc alone.
    """
    if sys.platform != "linux" or _has_accelerator():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (
            (-8, 1),  # M_ARENA_MAX: one heap for all threads, since others cannot grow so large
            (-4, 0),  # M_MMAP_MAX: nothing beside the heap
            (-1, -1),  # M_TRIM_THRESHOLD: the heap does not shrink
        ):
            mallopt(option, value)


def _has_accelerator() -> bool:
    """Whether JAX would start on one: a plugin is installed and the user names no other platform.

    To ask JAX itself would start its threads.
    """
    if named := os.environ.get("JAX_PLATFORMS"):
        return named != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
