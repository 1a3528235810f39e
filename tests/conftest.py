"""Fixtures of small but real components; KERAS_BACKEND selects the backend."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from environments import users_environment
from time_limits import scaled
from web_page import RunningPage, running_page

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # write nothing to the home folder

from keras_digitnet.artifacts import read_json, write_json
from keras_digitnet.config import ModelConfig, TrainConfig
from keras_digitnet.data import Dataset, Split, load_dataset
from keras_digitnet.formats import EXPORT_FORMATS

ROOT = Path(__file__).parents[1]

# All optional layers, at a size that trains in a second.
TINY = ModelConfig(
    widths=(8, 12),
    depths=(1, 1),
    expansion=2,
    kernel_size=3,
    shear=0.1,
    elastic=0.5,
    pen=0.5,
    degradation=0.5,
)

# Without random layers, which take most of the compile time, for tests of other things.
PLAIN = replace(TINY, augmentation="none")


@pytest.fixture(scope="session", autouse=True)
def given_mnist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The path of real MNIST in KERAS_DIGITNET_DATA, which is hidden from all other tests.

    For those no data set is available, on any machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        given = os.environ.get("KERAS_DIGITNET_DATA")
        patch.delenv("KERAS_DIGITNET_DATA", raising=False)
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras-home")))
        yield given


@pytest.fixture(scope="session", autouse=True)
def no_process_survives() -> Iterator[None]:
    """Checks that every process that the tests started has ended."""
    yield
    shown = subprocess.run(["ps", "-A", "-o", "ppid=,args="], capture_output=True, text=True)
    ours = [line.split(maxsplit=1) for line in shown.stdout.splitlines()]
    running = [words[1] for words in ours if words[0] == str(os.getpid())]
    assert not [program for program in running if "keras_digitnet" in program]


@pytest.fixture(scope="session")
def backend() -> str:
    import keras

    return keras.backend.backend()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """scikit-learn's bundled digits in MNIST's form."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def few_digits(digits: Dataset) -> Dataset:
    return Dataset(
        digits.name,
        digits.source,
        digits.classes,
        digits.train[:320],
        digits.validation,
        digits.test[:100],
    )


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    return TrainConfig(
        preset="nano",
        data="digits",
        epochs=3,
        batch_size=32,
        min_images_per_epoch=320,
        export=False,
        model=TINY,
    )


@pytest.fixture(scope="session")
def mnist(given_mnist: str | None) -> Dataset:
    """Real MNIST; skips if KERAS_DIGITNET_DATA does not name it."""
    if not given_mnist:
        pytest.skip("needs real MNIST: KERAS_DIGITNET_DATA names no file")
    dataset = load_dataset(given_mnist)
    if (len(dataset.train) + len(dataset.validation), len(dataset.test)) != (60_000, 10_000):
        pytest.skip(f"needs real MNIST: KERAS_DIGITNET_DATA names {given_mnist}")
    return dataset


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the shipped `small`, whose settings name the bundled digits."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(ROOT / "saved_models" / "small" / "model.keras", folder)
    config = read_json(ROOT / "saved_models" / "small" / "config.json")
    write_json(folder / "config.json", {**config, "train": {**config["train"], "data": "digits"}})
    return folder


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model exported to every format; one of pytest's processes does it for all."""
    from keras_digitnet.export import export_model

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                export_model(trained, unfinished, EXPORT_FORMATS)
                shutil.copytree(unfinished, folder)
    return folder


@pytest.fixture(scope="session")
def served() -> Iterator[RunningPage]:
    """The web page; its tests share the server by being in one `xdist_group`, "demo"."""
    with running_page(ends_within=30, model=None) as page:
        yield page


@pytest.fixture
def random_images() -> Callable[[int], Split]:
    def make(count: int) -> Split:
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (count, 28, 28, 1), np.uint8)
        return Split(images, random.integers(0, 10, count))

    return make


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `keras-digitnet` in a separate process, in an empty folder."""

    def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        changed = {**users_environment(), **environment}
        return subprocess.run(
            [sys.executable, "-m", "keras_digitnet", *map(str, arguments)],
            cwd=tmp_path,
            env={name: value for name, value in changed.items() if value is not None},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=scaled(300),
            check=False,
        )

    return run
