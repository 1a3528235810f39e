"""Reading pictures with Ray: one row each, despite broken files and killed processes.

Skipped if Ray is not installed: `pip install -e '.[dev,ray]'`, then
`python -m pytest tests/test_predict_ray.py`.
"""

import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from time_limits import scaled

from keras_digitnet.data import Dataset

pytestmark = [
    pytest.mark.servers,
    pytest.mark.xdist_group("servers"),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'"
    ),
]

COUNT = 1_000
BROKEN = range(0, COUNT, 200)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "predict_ray.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": ""},
    )


def end(driver: subprocess.Popen[bytes]) -> None:
    """Kills the driver; its cluster must end too, but for agents that do so after a minute."""
    cluster = {pid for pid, title in below(driver.pid).items() if not title.endswith("Agent")}
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + scaled(60)
    while any(Path(f"/proc/{pid}").exists() for pid in cluster):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def below(pid: int) -> dict[int, str]:
    """The descendants of a process, with their titles."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    found = {
        int(own): title[0] if title else "" for own, parent, *title in rows if int(parent) == pid
    }
    for child in list(found):
        found |= below(child)
    return found


def answered(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def wait_for(count: int, folder: Path, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + scaled(300)
    while len(answered(folder)) < count:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def pictures(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(COUNT):
        file = io.BytesIO()
        image = Image.fromarray(digits.test.images[index % 100, ..., 0])
        image.resize((112, 112)).save(file, "PNG")  # in MNIST's form they would be read too fast
        content = b"broken" if index in BROKEN else file.getvalue()
        (folder / f"{index:04d}.png").write_bytes(content)
    return folder


def test_every_picture_becomes_one_row_despite_killed_processes(
    pictures: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    arguments = (pictures, answers, "--one-digit", "--model", "nano", "--batch-size", 10)
    first = start(*arguments, "--workers", 1)
    try:
        wait_for(1, answers, first)
        workers = [pid for pid, title in below(first.pid).items() if "ray::MapWorker" in title]
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_for(len(answered(answers)) + 10, answers, first)
    finally:
        end(first)
    before = len(answered(answers))
    assert 0 < before < COUNT
    again = start(*arguments)
    try:
        assert again.wait(scaled(300)) == 0
    finally:
        end(again)
    rows = sorted(answered(answers), key=lambda row: row["path"])
    assert [Path(row["path"]).name for row in rows] == [f"{i:04d}.png" for i in range(COUNT)]
    assert [index for index, row in enumerate(rows) if row["error"]] == list(BROKEN)
    assert all(row["label"] in "0123456789" for row in rows)
    assert np.all([row["confidence"] > 0 for row in rows if not row["error"]])
