"""Interrupted programs lose nothing that was finished and leave no partial files.

The programs run in processes forked from one that has imported the package, since importing takes
longer than the programs.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from time_limits import scaled

from keras_digitnet import training
from keras_digitnet.artifacts import (
    atomic_write,
    newest_version,
    publish_version,
    temporary_beside,
)
from keras_digitnet.cli import app
from keras_digitnet.config import TrainConfig
from keras_digitnet.errors import DigitNetError
from keras_digitnet.formats.keras_file import load_inference_model
from keras_digitnet.reading.inference import load

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["keras_digitnet.training", "keras_digitnet.cli", "keras_digitnet.reading.reader", "pytest"]
)

# An event of Python's audit hooks, a part of its first argument, and the seconds from it to the
# kill.
Moment = tuple[str, str, float]
NEVER: Moment = ("", "", 0.0)
IN_A_CHECKPOINT: Moment = ("open", "-epoch-0001.keras", 0.005)
BEFORE_A_CHECKPOINT_HAS_ITS_NAME: Moment = ("os.rename", "-epoch-0002.keras", 0.0)
IN_AN_EPOCH: Moment = ("os.rename", "-epoch-0002.keras", 0.05)
IN_THE_MODEL: Moment = ("open", "-model.keras", 0.005)
IN_AN_EXPORT: Moment = ("os.mkdir", "assets.extra", 0.0)


def start(target: Any, *arguments: Any) -> BaseProcess:
    child = CONTEXT.Process(target=target, args=arguments)
    child.start()
    return child


def code_of(child: BaseProcess) -> int | None:
    child.join(scaled(600))
    code = child.exitcode
    child.kill()  # if it has not ended
    return code


def train_or_resume(out_dir: Path, config: TrainConfig, moment: Moment = NEVER) -> None:
    """Resumes the run in the folder or starts one; kills itself at the given moment."""
    event, name, delay = moment

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def on_event(happened: str, arguments: tuple[Any, ...]) -> None:
        if event and happened == event and name in str(arguments[0]):
            threading.Timer(delay, die).start() if delay else die()

    sys.addaudithook(on_event)
    if begun := list(out_dir.glob("*/config.json")):
        training.resume(begun[0].parent, verbose=0)
    else:
        training.train(config, out_dir=out_dir, verbose=0)


def train_until(out_dir: Path, config: TrainConfig, moment: Moment = NEVER) -> int | None:
    return code_of(start(train_or_resume, out_dir, config, moment))


def the_run(out_dir: Path) -> Path:
    (config_path,) = out_dir.glob("*/config.json")
    return config_path.parent


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def metrics(run_dir: Path) -> dict[str, Any]:
    found = json.loads((run_dir / "metrics.json").read_text())
    return {key: found[key] for key in found.keys() - {"seconds", "versions"}}


def weights(run_dir: Path) -> list[np.ndarray]:
    return load_inference_model(run_dir / "model.keras").get_weights()


def require_the_same_results(run_dir: Path, whole_dir: Path) -> None:
    assert history(run_dir) == history(whole_dir)
    assert metrics(run_dir) == metrics(whole_dir)
    pairs = zip(weights(run_dir), weights(whole_dir), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    # Without temporary files.
    assert contents(run_dir).keys() == contents(whole_dir).keys()


def require_whole_files(out_dir: Path) -> None:
    """Checks that every file without a temporary name is complete."""
    for path in out_dir.rglob("*"):
        names = path.relative_to(out_dir).parts
        if not path.is_file() or any(name.startswith(".") for name in names):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".csv":
            assert all(None not in row.values() for row in history(path.parent))
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    for version in out_dir.glob("*/saved_model/digitnet/[0-9]*"):
        assert {"saved_model.pb", "fingerprint.pb", "assets.extra", "variables"} <= set(
            os.listdir(version)
        )
        assert (version / "variables" / "variables.index").is_file()


# Killed and concurrent runs


@pytest.fixture(scope="module")
def config(tiny_config: TrainConfig, backend: str) -> TrainConfig:
    """On other backends, the export, in a TensorFlow process, would take most of the time."""
    assert tiny_config.model
    model = replace(tiny_config.model, shear=0, elastic=0, pen=0, degradation=0)
    return replace(tiny_config, model=model, export=backend == "tensorflow")


@pytest.fixture(scope="module")
def whole_runs(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of two runs with the same settings, started concurrently in the same place."""
    out_dir = tmp_path_factory.mktemp("whole")
    children = [start(train_or_resume, out_dir, config) for _ in range(2)]
    assert [code_of(child) for child in children] == [0, 0]
    return sorted(out_dir.iterdir())


@pytest.mark.backends
def test_two_runs_that_start_at_once_do_not_touch_each_other(whole_runs: list[Path]) -> None:
    first, second = whole_runs
    require_whole_files(first.parent)
    require_the_same_results(first, second)


@pytest.mark.backends
def test_a_killed_run_is_identical_to_an_uninterrupted_one(
    config: TrainConfig, whole_runs: list[Path], tmp_path: Path, backend: str
) -> None:
    """SIGKILL at each of the most vulnerable moments of a run."""
    moments = [IN_A_CHECKPOINT, IN_AN_EPOCH]
    if backend == "tensorflow":
        moments += [IN_THE_MODEL, IN_AN_EXPORT]
    for moment in moments:
        assert train_until(tmp_path, config, moment) == -signal.SIGKILL, moment
        require_whole_files(tmp_path)
    assert train_until(tmp_path, config) == 0
    require_the_same_results(the_run(tmp_path), whole_runs[0])


@pytest.mark.long
@pytest.mark.backends
def test_runs_killed_at_random_moments_are_identical_to_uninterrupted_ones(
    tiny_config: TrainConfig, tmp_path: Path, backend: str
) -> None:
    """Each run is killed repeatedly until it finishes."""
    config = replace(tiny_config, export=True)
    whole_dir = tmp_path / "whole"
    began = time.monotonic()
    assert train_until(whole_dir, config) == 0
    seconds = time.monotonic() - began
    kills = 50 if backend == "tensorflow" else 5
    runs = 0
    while kills:
        out_dir = tmp_path / f"killed-{runs}"
        child = start(train_or_resume, out_dir, config)
        child.join(random.uniform(0, seconds))
        child.kill()
        code = code_of(child)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            seconds *= 0.8  # the first run was slow, so too few are killed
        require_whole_files(out_dir)
        kills -= code != 0
        if not kills and not list(out_dir.glob("*/metrics.json")):
            assert train_until(out_dir, config) == 0
        if list(out_dir.glob("*/metrics.json")):
            with pytest.raises(DigitNetError, match="this one is finished"):
                training.resume(the_run(out_dir))
            require_the_same_results(the_run(out_dir), the_run(whole_dir))
            runs += 1
        print(f"{kills} kills to go, {runs} finished runs", flush=True)


def write_half(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")
    assert code_of(start(write_half, path)) == -signal.SIGKILL
    assert path.read_text() == "old"


# Signals, full disks, missing folders


def run_commands(messages: Path, limit: int | None, *commands: list[str]) -> None:
    """Runs commands with stderr in a file; exits with the code of the last one.

    Args:
        messages: The file.
        limit: Where files may not be longer than so many bytes: a full disk, as far as a program
            can tell.
        commands: The arguments of each.
    """
    with messages.open("w") as file, open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(file.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for command in commands[:-1]:
        with contextlib.suppress(SystemExit):
            app(command)
    app(commands[-1])


def errors_of(child: BaseProcess, messages: Path, code: int) -> list[str]:
    """Waits for the exit code; returns the error lines of the commands."""
    assert code_of(child) == code, messages.read_text()
    text = messages.read_text()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith(("Error: ", "Stopped"))]


@pytest.fixture(scope="module")
def begun(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a long run that was killed after its first epoch."""
    out_dir = tmp_path_factory.mktemp("begun")
    endless = replace(config, epochs=10_000, patience=10_000)
    assert train_until(out_dir, endless, BEFORE_A_CHECKPOINT_HAS_ITS_NAME) == -signal.SIGKILL
    return the_run(out_dir)


@pytest.fixture
def run_dir(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    return tmp_path / "messages"


@contextlib.contextmanager
def resumed(run_dir: Path, messages: Path) -> Iterator[BaseProcess]:
    """The resumed run, after an epoch."""
    child = start(run_commands, messages, None, ["train", "--resume", str(run_dir)])
    try:
        deadline = time.monotonic() + scaled(300)
        while not list(run_dir.glob("checkpoints/epoch-000[2-9].keras")):
            assert child.is_alive(), messages.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield child
    finally:
        child.kill()
        child.join()


@pytest.mark.backends
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interruption_keeps_the_best_model_and_says_how_to_resume(
    run_dir: Path, messages: Path, number: int, code: int
) -> None:
    with resumed(run_dir, messages) as child:
        os.kill(child.pid or 0, number)
        (message,) = errors_of(child, messages, code)
    assert re.fullmatch(
        r"Stopped in epoch \d+\. The best model so far \(epoch \d+, validation accuracy .*\) is "
        rf"saved: {run_dir}/model.keras\. Resume with: keras-digitnet train --resume {run_dir}",
        message,
    )
    assert load(run_dir).classes == tuple("0123456789")
    require_whole_files(run_dir.parent)


def test_a_full_disk_is_one_message_and_keeps_existing_files(run_dir: Path, messages: Path) -> None:
    before = contents(run_dir / "checkpoints")
    child = start(run_commands, messages, 20_000, ["train", "--resume", str(run_dir)])
    assert errors_of(child, messages, code=2) == [
        f"Error: {run_dir}/checkpoints/epoch-0002.keras: expected to write it; received: "
        "File too large. Free some space there, or name another folder. "
        f"Resume with: keras-digitnet train --resume {run_dir}"
    ]
    require_whole_files(run_dir.parent)
    name = "epoch-0001.keras"
    assert contents(run_dir / "checkpoints") == {name: before[name]}


def test_a_folder_that_is_removed_ends_the_run(run_dir: Path, messages: Path) -> None:
    with resumed(run_dir, messages) as child:
        run_dir.rename(run_dir.with_name("removed"))
        (message,) = errors_of(child, messages, code=2)
    assert message.endswith("Train again.")
    assert str(run_dir) in message
    require_whole_files(run_dir.parent)


def test_an_export_to_a_full_disk_is_one_message_and_keeps_existing_files(
    tmp_path: Path, messages: Path
) -> None:
    pytest.importorskip("resource")
    out_dir = tmp_path / "out"
    for name in ("digitnet/1/saved_model.pb", "model.onnx", "model.xml"):
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (out_dir / name).write_text("what was there")
    before = contents(out_dir)
    commands = [
        ["export", "nano", "--quiet", "--format", form, "--out", str(out_dir)]
        for form in ("saved_model", "onnx", "openvino")  # LiteRT writes a file like ONNX
    ]
    child = start(run_commands, messages, 50_000, *commands)
    errors = errors_of(child, messages, code=2)
    assert len(errors) == len(commands)
    assert all("File too large" in error for error in errors), errors
    assert contents(out_dir) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write to")
def test_a_place_that_cannot_be_written_to_is_one_message(tmp_path: Path, messages: Path) -> None:
    picture = str(Path(__file__).parents[1] / "scripts" / "seven.png")
    commands = [
        ["train", "--preset", "nano", "--data", "digits", "--out"],
        ["evaluate", "nano", "--data", "digits", "--pictures"],
        ["read", picture, "--model", "nano", "--annotate"],
        ["export", "nano", "--out"],
    ]
    child = start(run_commands, messages, None, *([*command, "/sys/new"] for command in commands))
    errors = errors_of(child, messages, code=2)
    assert len(errors) == len(commands)
    for error in errors:
        assert error.startswith("Error: /sys/new")
        assert "expected to write it; received: " in error
        assert "name another folder" in error


def test_a_failed_write_keeps_the_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(OSError, match="received: disk full"), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.keras"]


# Publishing and loading


def load_until_the_end(servable_dir: Path) -> None:
    """Loads the newest version repeatedly; appends to a file each time."""
    while not (servable_dir / "end").exists():
        load(servable_dir).predict(np.zeros((1, 28, 28), np.uint8))
        with (servable_dir / "loads").open("a") as file:
            file.write(".")


@pytest.mark.parametrize("times", [10, pytest.param(200, marks=pytest.mark.long)])
def test_the_newest_version_can_always_be_loaded(
    whole_runs: list[Path], tmp_path: Path, times: int
) -> None:
    """One program publishes versions while another loads them."""
    version = whole_runs[0] / "saved_model" / "digitnet" / "1"
    shutil.copytree(version, tmp_path / "1")
    (tmp_path / "loads").touch()
    child = start(load_until_the_end, tmp_path)
    published, deadline = 0, time.monotonic() + scaled(30 + 2 * times)
    try:
        while published < times or (tmp_path / "loads").stat().st_size < times / 10:
            assert child.is_alive()
            assert time.monotonic() < deadline
            with temporary_beside(tmp_path / "new") as temporary:
                shutil.copytree(version, temporary)
                publish_version(temporary, tmp_path)
            published += 1
            time.sleep(0.2)
    finally:
        (tmp_path / "end").touch()
    assert newest_version(tmp_path) == tmp_path / str(1 + published)
    assert code_of(child) == 0
