"""Names and folders of what a run leaves behind, and how a file gets there whole."""

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
# What a small file of somebody else's may unpack to, in bytes; `base` takes less than two MB.
MOST_UNPACKED = 1 << 28


class WriteError(DigitNetError, OSError):
    """The disk is full, the folder gone or closed to this user.

    Attributes:
        reason: What the system said.
    """

    def __init__(self, path: Path, reason: OSError) -> None:
        super().__init__(
            f"{path}: expected to write it; received: {reason.strerror or reason}. "
            "Make room there, or name another folder."
        )
        self.reason = reason


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of one run lie; nothing here says that they exist yet."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    def read_config(self) -> dict[str, Any]:
        """What `config.json` holds: `classes`, `dataset`, `fingerprint`, `backend`, `train`.

        Raises:
            DigitNetError: This is no run's folder.
        """
        saved = read_json(self.config_path)
        expected = {"classes", "dataset", "fingerprint", "backend", "train"}
        if not isinstance(saved, dict) or not expected <= saved.keys():
            raise DigitNetError(
                f"{self.config_path}: expected a run's fields {', '.join(sorted(expected))}."
            )
        return saved

    def read_unfinished(self) -> dict[str, Any]:
        """The same of a run that can be gone on with.

        Raises:
            DigitNetError: This is no run's folder, or the run is finished.
        """
        saved = self.read_config()
        if self.metrics_path.is_file():
            shutil.rmtree(self.checkpoints_dir, ignore_errors=True)  # left where the end was a kill
            raise DigitNetError(f"{self.path}: expected an unfinished run; this one is finished.")
        return saved

    @property
    def history_path(self) -> Path:
        return self.path / "history.csv"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.json"

    @property
    def model_path(self) -> Path:
        return self.path / "model.keras"

    @property
    def servable_dir(self) -> Path:
        return self.path / "saved_model" / SERVABLE_NAME

    @property
    def curves_path(self) -> Path:
        return self.path / "curves.png"

    @property
    def confusion_matrix_path(self) -> Path:
        return self.path / "confusion_matrix.png"

    @property
    def mistakes_path(self) -> Path:
        return self.path / "mistakes.png"

    @property
    def pages_path(self) -> Path:
        return self.path / "pages.png"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_path(self, epochs: int) -> Path:
        """The whole state of training after so many epochs."""
        return self.checkpoints_dir / f"epoch-{epochs:04d}.keras"

    def checkpoints(self) -> dict[int, Path]:
        """Finished checkpoints by their number of epochs, in order."""
        paths = sorted(self.checkpoints_dir.glob("epoch-*.keras"))
        return {int(path.stem.removeprefix("epoch-")): path for path in paths}


def create_run_folder(out_dir: Path, dataset: str, preset: str, backend: str) -> RunFolder:
    """Makes `<out_dir>/<UTC time>-<dataset>-<preset>-<backend>/`, which was not there before.

    Args:
        out_dir: Is made too.
        dataset: A name of any characters.
        preset: Its name.
        backend: Its name.

    Raises:
        WriteError: No folder can be made there.
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
            path.mkdir()  # fails where another run came first
        except FileExistsError:
            continue
        return RunFolder(path)
    raise DigitNetError(f"{out_dir}: 999 runs started in this second; name another --out.")


def plain_name(text: str) -> str:
    """The text with `_` for whatever is no ASCII letter or digit."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text) or "_"


def require_folder(path: Path) -> None:
    """Raises WriteError unless a folder is there, or can be made; makes none."""
    there = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110
    if not os.path.isdir(there):  # noqa: PTH112  (pathlib's raise where a parent is closed)
        raise WriteError(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def expanded(path: str | Path) -> Path:
    """The path with the home folder for its `~`; one that names nobody's stands for itself."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def preset_dir(preset: str) -> Path:
    """Where a preset's trained model lies: in the installed package, else in the checkout."""
    package = Path(__file__).parent
    installed = package / "saved_models"
    return (installed if installed.is_dir() else package.parent / "saved_models") / preset


def newest_version(path: Path) -> Path | None:
    """`path` if it is a version of a SavedModel, else the newest version in it, if any."""
    if (path / "saved_model.pb").is_file():
        return path
    whole = [version for version in _versions(path) if (version / "saved_model.pb").is_file()]
    return max(whole, key=lambda version: int(version.name), default=None)


def _versions(servable_dir: Path) -> list[Path]:
    names = (entry.name for entry in servable_dir.iterdir())
    return [servable_dir / name for name in names if name.isascii() and name.isdecimal()]


def publish_version(written: Path, servable_dir: Path) -> Path:
    """Renames a finished folder to `<servable_dir>/<next integer>` and returns that.

    A server that polls the folder sees all of a version or nothing; of two
    that publish at once, each gets a number of its own.
    """
    servable_dir.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(version.name) for version in _versions(servable_dir)]
        version_dir = servable_dir / str(max(numbers, default=0) + 1)
        try:
            return written.rename(version_dir)
        except OSError:
            if not version_dir.exists():  # then nobody was faster: it is another trouble
                raise


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yields a hidden name in the folder of `path`; what is left under it goes at the end.

    Raises:
        WriteError: In place of an `OSError` that comes meanwhile.
    """
    # Keeps the suffix, which Keras and others look at.
    temporary = path.parent / f".{secrets.token_hex(4)}-{path.name}"
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left under the names of `temporary_beside`."""
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
    """Yields a temporary name beside `path`, which takes its place at the end.

    Nobody ever sees half a file under its own name, and what stood there stays
    if the writing fails.
    """
    with temporary_beside(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DigitNetError: There is no such file, or it holds no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DigitNetError(f"{path}: expected a JSON file; there is none.") from None
    except (ValueError, RecursionError) as error:
        raise DigitNetError(f"{path}: expected JSON; received: {error}.") from None


def publish_files(written: Path, folder: Path, last: str) -> None:
    """Moves all files of one folder into another, where those of the same names go.

    Nobody sees half a file under its own name. Of several, the one that is
    named `last`, by which they are opened, is never there beside old ones.
    """
    files = sorted(written.iterdir(), key=lambda file: file.name == last)
    if len(files) > 1:
        (folder / last).unlink(missing_ok=True)
    for file in files:
        _sync(file)
        file.replace(folder / file.name)


def _sync(path: Path) -> None:
    """A power cut too finds what was there before or all of the file."""
    with path.open("rb+") as file:
        os.fsync(file)


# The config.json beside a model


def config_dir(path: Path) -> Path:
    """Where the `config.json` of a model lies: inside a SavedModel, else beside the file."""
    return path / "assets.extra" if path.is_dir() else path.parent


def class_names(folder: Path, count: int) -> tuple[str, ...] | None:
    """The names in a folder's `config.json`; `None` where it has none.

    Raises:
        DigitNetError: They are not `count` names.
    """
    config_path = folder / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    if not isinstance(config, dict) or "classes" not in config:
        return None  # or somebody else's
    names = config["classes"]
    if not isinstance(names, list) or len(names) != count:
        raise DigitNetError(
            f"{config_path}: expected the {count} names of the model's classes; received: {names}."
        )
    return tuple(map(str, names))


def copy_config(source: Path, folder: Path) -> None:
    """Copies the `config.json` of one folder into another, where there is one."""
    config_path = source / "config.json"
    if config_path.is_file() and source.resolve() != folder.resolve():
        with atomic_write(folder / config_path.name) as temporary:
            shutil.copy(config_path, temporary)
