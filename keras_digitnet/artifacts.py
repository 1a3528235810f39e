"""Run folders, a model's `config.json`, and atomic writes."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keras_digitnet.errors import DigitNetError

SERVABLE_NAME = "digitnet"
# Limit in bytes on the unpacked size of an untrusted file; `base` takes less than two MB.
MAX_UNPACKED = 1 << 28


class WriteError(DigitNetError, OSError):
    """A write failed: the disk is full, or the folder is missing or not writable.

    Attributes:
        reason: The operating system's error.
    """

    def __init__(self, path: Path, reason: OSError) -> None:
        super().__init__(
            f"{path}: expected to write it; received: {reason.strerror or reason}. "
            "Free some space there, or name another folder."
        )
        self.reason = reason


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's files; none of them need exist yet.

    Attributes:
        path: The run's folder.
    """

    path: Path

    @property
    def config_path(self) -> Path:
        """The settings of the run."""
        return self.path / "config.json"

    def read_config(self) -> dict[str, Any]:
        """Reads `config.json`: `classes`, `dataset`, `fingerprint`, `backend`, `train`.

        Raises:
            DigitNetError: The folder is not that of a run.
        """
        saved = read_json(self.config_path)
        expected = {"classes", "dataset", "fingerprint", "backend", "train"}
        if not isinstance(saved, dict) or not expected <= saved.keys():
            raise DigitNetError(
                f"{self.config_path}: expected a run's fields {', '.join(sorted(expected))}."
            )
        return saved

    def read_unfinished(self) -> dict[str, Any]:
        """Reads the `config.json` of a run that can be resumed.

        Raises:
            DigitNetError: The folder is not that of a run, or the run is finished.
        """
        if not self.config_path.is_file():
            raise DigitNetError(
                f"{self.path}: expected the folder of a run; received: "
                f"{'another folder' if self.path.is_dir() else 'no folder'}. "
                "List the runs with: keras-digitnet runs"
            )
        saved = self.read_config()
        if self.metrics_path.is_file():
            # A run that was killed at its very end has not removed its checkpoints.
            shutil.rmtree(self.checkpoints_dir, ignore_errors=True)
            raise DigitNetError(f"{self.path}: expected an unfinished run; this one is finished.")
        return saved

    @property
    def history_path(self) -> Path:
        """Loss, metrics and seconds, one row per epoch."""
        return self.path / "history.csv"

    @property
    def metrics_path(self) -> Path:
        """The metrics of a finished run; written last."""
        return self.path / "metrics.json"

    @property
    def model_path(self) -> Path:
        """The trained network."""
        return self.path / "model.keras"

    @property
    def servable_dir(self) -> Path:
        """The folder of the SavedModel's versions, as TF Serving takes it."""
        return self.path / "saved_model" / SERVABLE_NAME

    @property
    def curves_path(self) -> Path:
        """The plot of loss and accuracy over the epochs."""
        return self.path / "curves.png"

    @property
    def confusion_matrix_path(self) -> Path:
        """The plot of a classifier's confusion matrix."""
        return self.path / "confusion_matrix.png"

    @property
    def mistakes_path(self) -> Path:
        """The picture of the worst mistakes."""
        return self.path / "mistakes.png"

    @property
    def pages_path(self) -> Path:
        """The picture of a reader's training pages."""
        return self.path / "pages.png"

    @property
    def checkpoints_dir(self) -> Path:
        """The checkpoints of an unfinished run."""
        return self.path / "checkpoints"

    def checkpoint_path(self, epochs: int) -> Path:
        """The checkpoint after `epochs` epochs: the complete state of training."""
        return self.checkpoints_dir / f"epoch-{epochs:04d}.keras"

    def checkpoints(self) -> dict[int, Path]:
        """The complete checkpoints by number of epochs, in ascending order."""
        paths = sorted(self.checkpoints_dir.glob("epoch-*.keras"))
        return {int(path.stem.removeprefix("epoch-")): path for path in paths}


def create_run_folder(out_dir: Path, dataset: str, preset: str, backend: str) -> RunFolder:
    """Creates the new folder `<out_dir>/<UTC time>-<dataset>-<preset>-<backend>/`.

    Args:
        out_dir: Created if it is missing.
        dataset: Name of the data set, of any characters.
        preset: Name of the preset.
        backend: Name of the backend.

    Raises:
        WriteError: The folder cannot be created.
    """
    started = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    name = f"{started}-{plain_name(dataset)[:40]}-{preset}-{backend}"
    with _write_errors(out_dir):
        return _create_numbered(out_dir, name)


def _create_numbered(out_dir: Path, name: str) -> RunFolder:
    out_dir.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = out_dir / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()  # fails if another run has taken the name
        except FileExistsError:
            continue
        return RunFolder(path)
    raise DigitNetError(f"{out_dir}: 999 runs started in this second; name another --out.")


def plain_name(text: str) -> str:
    """The text with each character but ASCII letters and digits replaced with `_`."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text) or "_"


def require_folder(path: Path) -> None:
    """Raises WriteError unless the folder exists or could be created; creates nothing."""
    there = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110
    if not os.path.isdir(there):  # noqa: PTH112  (pathlib's raises if a parent is unreadable)
        raise WriteError(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def expanded(path: str | Path) -> Path:
    """The path with `~` expanded; unchanged where `~name` is no user's."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def preset_dir(preset: str) -> Path:
    """The folder of a preset's trained model: in the installed package, else in the checkout."""
    package = Path(__file__).parent
    installed = package / "saved_models"
    return (installed if installed.is_dir() else package.parent / "saved_models") / preset


def newest_version(path: Path) -> Path | None:
    """`path` if it is a SavedModel's version, else the newest version in it, if any."""
    if (path / "saved_model.pb").is_file():
        return path
    complete = [version for version in _versions(path) if (version / "saved_model.pb").is_file()]
    return max(complete, key=lambda version: int(version.name), default=None)


def _versions(servable_dir: Path) -> list[Path]:
    names = (entry.name for entry in servable_dir.iterdir())
    return [servable_dir / name for name in names if name.isascii() and name.isdecimal()]


def publish_version(written: Path, servable_dir: Path) -> Path:
    """Renames a complete folder to `<servable_dir>/<next integer>` and returns that path.

    The rename is atomic, so a server that polls the folder never sees part of a
    version. Two processes that publish at once get different numbers.
    """
    servable_dir.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(version.name) for version in _versions(servable_dir)]
        version_dir = servable_dir / str(max(numbers, default=0) + 1)
        try:
            return written.rename(version_dir)
        except OSError:
            if not version_dir.exists():  # not a race for the number, but a real error
                raise


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yields a hidden temporary path beside `path`, which is removed at the end.

    Raises:
        WriteError: Replaces an `OSError` raised in the body.
    """
    # The suffix is kept, since Keras and others infer the format from it.
    temporary = path.parent / f".{secrets.token_hex(4)}-{path.name}"
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Removes the files of `temporary_beside` that killed processes have left."""
    for path in list(folder.rglob(f".{'[0-9a-f]' * 8}-*")):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DigitNetError:
        raise
    except OSError as error:
        raise WriteError(path, error) from None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` at the end.

    A partly written file never appears at `path`, and a file that was there
    before is kept if writing fails.

    Raises:
        WriteError: The file cannot be written.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically.

    Raises:
        WriteError: The file cannot be written.
        ValueError: The value holds NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DigitNetError: The file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DigitNetError(f"{path}: expected a JSON file; there is none.") from None
    except (ValueError, RecursionError) as error:
        raise DigitNetError(f"{path}: expected JSON; received: {error}.") from None


def publish_files(written: Path, folder: Path, last: str) -> None:
    """Moves all files of one folder into another, replacing those of the same names.

    Each file is moved atomically. The file named `last`, by which the others are
    found, is removed first and moved last, so it never stands beside old files.
    """
    files = sorted(written.iterdir(), key=lambda file: file.name == last)
    if len(files) > 1:
        (folder / last).unlink(missing_ok=True)
    for file in files:
        _sync(file)
        file.replace(folder / file.name)


def _sync(path: Path) -> None:
    """Flushes the file to disk, so that the rename is safe against a power cut too."""
    with path.open("rb+") as file:
        os.fsync(file)


# The config.json beside a model


def config_dir(path: Path) -> Path:
    """The folder of a model's `config.json`: inside a SavedModel, else beside the file."""
    return path / "assets.extra" if path.is_dir() else path.parent


def class_names(folder: Path, count: int) -> tuple[str, ...] | None:
    """The class names in a folder's `config.json`; `None` if there are none.

    Raises:
        DigitNetError: There are not exactly `count` names.
    """
    config_path = folder / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if not isinstance(config, dict) or "classes" not in config:
        return None  # possibly another program's config.json
    names = config["classes"]
    if not isinstance(names, list) or len(names) != count:
        raise DigitNetError(
            f"{config_path}: expected the {count} names of the model's classes; received: {names}."
        )
    return tuple(map(str, names))


def copy_config(source: Path, folder: Path) -> None:
    """Copies `config.json`, if there is one, from one folder to another."""
    config_path = source / "config.json"
    if config_path.is_file() and source.resolve() != folder.resolve():
        with atomic_write(folder / config_path.name) as temporary:
            shutil.copy(config_path, temporary)
