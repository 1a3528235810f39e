"""Many concurrent users, many pictures: correct answers, and constant memory."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from time_limits import scaled
from web_page import RunningPage, ask, running_page

import keras_digitnet as kd
from keras_digitnet.data import Dataset

pytestmark = pytest.mark.xdist_group("demo")  # one at a time: each uses all processors


def _megabytes(process: int) -> float:
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True)
    return int(found.stdout) / 1024


@pytest.fixture
def numbers(digits: Dataset, tmp_path: Path) -> dict[Path, str]:
    """Pictures of two digits, and the text that is read of each without other users."""
    classifier = kd.load("nano")
    pictures = {}
    for index in range(8):
        pair = digits.test.images[2 * index : 2 * index + 2, ..., 0]
        path = tmp_path / f"{index}.png"
        Image.fromarray(
            255 - np.kron(np.concatenate(pair, axis=1), np.ones((3, 3), np.uint8))
        ).save(path)
        pictures[path] = kd.read(path, classifier).text
    return pictures


@pytest.fixture
def page() -> Iterator[RunningPage]:
    with running_page(ends_within=120) as started:
        yield started


@pytest.mark.parametrize(
    ("users", "seconds"), [(8, 4), pytest.param(32, 60, marks=pytest.mark.long)]
)
def test_the_page_answers_many_concurrent_users_correctly(
    numbers: dict[Path, str], page: RunningPage, users: int, seconds: float
) -> None:
    for path, text in numbers.items():
        assert ask(page.address, path) == text
    before, until = _megabytes(page.process), time.monotonic() + scaled(seconds)
    answers: list[tuple[str, Any]] = []

    def use(first: int) -> None:
        turn = first
        while time.monotonic() < until:
            path, text = list(numbers.items())[turn % len(numbers)]
            turn += 1
            try:
                answers.append((text, ask(page.address, path)))
            except Exception as error:
                answers.append((text, error))

    threads = [threading.Thread(target=use, args=(user,)) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [pair for pair in answers if pair[0] != pair[1]] == []
    assert len(answers) > users
    assert _megabytes(page.process) - before < 150


def _peak_of_predict(folder: Path) -> float:
    """Peak memory of `keras-digitnet predict` in MB; it must read every file."""
    command = [sys.executable, "-m", "keras_digitnet", "predict", "--model", "nano", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = sum(1 for _ in child.stdout)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert lines == len(list(folder.iterdir()))
    return usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize(
    ("few", "many"), [(100, 2_000), pytest.param(1_000, 100_000, marks=pytest.mark.long)]
)
def test_predict_needs_no_more_memory_for_more_files(
    digits: Dataset, tmp_path: Path, few: int, many: int
) -> None:
    peaks = []
    content = tmp_path / "digit.png"
    Image.fromarray(digits.test.images[0, ..., 0]).save(content)
    for count in (few, many):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            (folder / f"{index:06d}.png").symlink_to(content)
        peaks.append(_peak_of_predict(folder))
    assert peaks[1] - peaks[0] < 20 + many * 0.5e-3  # a file's name is half a kilobyte at most
