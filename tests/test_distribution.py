"""Several devices and processes train like one device; all stop together, with a message.

The processes run `train_distributed.py` or the command itself, over gloo on this machine.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from time_limits import scaled
from train_distributed import losses

from keras_digitnet.config import PRESETS
from keras_digitnet.data import Dataset
from keras_digitnet.distribution import Group
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.inference import load

# Each trains in processes that compile for two devices, which takes minutes on two cores.
pytestmark = [pytest.mark.backends, pytest.mark.long, pytest.mark.xdist_group("distribution")]

DISTRIBUTED = [sys.executable, str(ROOT / "tests" / "train_distributed.py")]
COMMAND = [sys.executable, "-m", "keras_digitnet", "train"]
TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture
def _on_jax(backend: str) -> None:
    if backend != "jax":
        pytest.skip("training on several devices needs JAX")


@pytest.fixture(scope="module")
def data(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which 53 are held out: no number of devices divides them."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    train, test = digits.train[:213], digits.test[:20]
    np.savez(
        path,
        x_train=train.images[..., 0],
        y_train=train.labels,
        x_test=test.images[..., 0],
        y_test=test.labels,
    )
    return path


def start(
    log: Path, command: Sequence[object], process: int = 0, **environment: str
) -> subprocess.Popen[bytes]:
    settings = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    with log.with_name(f"{log.name}{process}").open("wb") as file:
        return subprocess.Popen(
            [str(part) for part in command], env=os.environ | settings, stdout=file, stderr=file
        )


@contextlib.contextmanager
def two_processes(log: Path, *command: object) -> Iterator[list[subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    children = [
        start(log, command, process, KERAS_DISTRIBUTION_PROCESS_ID=str(process), **shared)
        for process in (0, 1)
    ]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def said(log: Path, process: int = 0) -> str:
    return log.with_name(f"{log.name}{process}").read_text()


def codes(children: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    deadline = time.monotonic() + scaled(200)
    return [child.wait(deadline - time.monotonic()) for child in children]


def epochs_done(runs: Path) -> int:
    paths = runs.glob("*/checkpoints/epoch-*.keras")
    return max((int(path.stem.removeprefix("epoch-")) for path in paths), default=0)


def wait_for_epoch(runs: Path, epoch: int, children: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + scaled(200)
    while epochs_done(runs) < epoch:
        assert [child.poll() for child in children] == [None] * len(children)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("_on_jax")
def test_two_devices_give_the_losses_of_one(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start(log, [*DISTRIBUTED, tmp_path / "two", data, 2, 1, 1, *PRESETS], **TWO_DEVICES)
    one = [losses(tmp_path / "one" / preset, data, "1", 1, 1, preset) for preset in PRESETS]
    assert child.wait(scaled(300)) == 0, said(log)
    two = [json.loads(line) for line in said(log).splitlines() if line.startswith("[[")]
    np.testing.assert_allclose(two, one, rtol=1e-6)


@pytest.mark.usefixtures("_on_jax")
def test_two_processes_train_one_run_despite_interruptions(data: Path, tmp_path: Path) -> None:
    """One is killed; then one gets SIGTERM; then a single device finishes the run."""
    runs, log = tmp_path / "runs" / "nano", tmp_path / "log"
    endless = (runs.parent, data, "all", 10_000, 10_000, "nano")
    with two_processes(log, *DISTRIBUTED, *endless) as children:
        wait_for_epoch(runs, 1, children)
        children[1].kill()
        assert codes(children[:1]) == [2], said(log)
    assert "Resume with: keras-digitnet train --resume" in said(log), said(log)
    (run_dir,) = runs.iterdir()

    with two_processes(log, *COMMAND, "--resume", run_dir) as children:
        wait_for_epoch(runs, epochs_done(runs) + 1, children)
        children[1].send_signal(signal.SIGTERM)
        assert codes(children) == [143, 143], said(log) + said(log, 1)
    stops = [re.findall(r"^Stopped in epoch \d+\.", said(log, each), re.M) for each in (0, 1)]
    assert stops[0] == stops[1] != []
    assert f"is saved: {run_dir}/model.keras. Resume with:" in said(log)
    assert "train --resume RUN\n" in said(log, 1)
    assert load(run_dir).classes == tuple("0123456789")
    assert list(runs.iterdir()) == [run_dir]

    last = epochs_done(runs) + 1
    ended, whole = (
        losses(folder, data, "1", 10_000, last, "nano") for folder in (runs, tmp_path / "whole")
    )
    assert len(ended) == last
    np.testing.assert_allclose(ended, whole, rtol=1e-4)


@pytest.mark.usefixtures("_on_jax")
def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    with pytest.raises(DigitNetError, match=r"expected 1 to 1, or all; received: 3\. .*count=2"):
        Group(3, 32)
    with pytest.raises(DigitNetError, match="expected 1 to 1, or all; received: some"):
        Group("some", 32)
    program = (
        "from keras_digitnet.environment import select_backend; select_backend('jax')\n"
        "from keras_digitnet.distribution import Group; Group('all', 33)"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | TWO_DEVICES | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "received: 2 of 2 devices and 33. Change" in child.stderr


def test_other_backends_name_the_supported_one(backend: str, tmp_path: Path) -> None:
    if backend == "jax":
        pytest.skip("JAX is supported")
    log = tmp_path / "log"
    command = [*COMMAND, "--backend", backend, "--devices", "2", "--data", "digits"]
    assert start(log, command).wait(scaled(200)) == 2
    assert said(log) == (
        "Error: --devices: expected the backend jax, which can train on several devices; "
        f"received: {backend}. Use: keras-digitnet train --backend jax --devices 2\n"
    )
