"""Parallel jobs: the same answers in the same order, and no more work than needed."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from time_limits import scaled

from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.files import without_warnings
from keras_digitnet.reading.answers import in_order, predict_files, read_files
from keras_digitnet.reading.inference import load

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pictures(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve pictures of one digit each, the fifth of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{index:02d}.png" for index in range(12)]
    for path, image in zip(paths, digits.test.images[:12, ..., 0], strict=True):
        Image.fromarray(255 - np.kron(image, np.ones((3, 3), np.uint8))).save(path)
    paths[4].write_bytes(b"no picture")
    return [str(path) for path in paths]


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_are_in_order_and_items_are_taken_lazily(jobs: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    def slower_if_even(item: int) -> int:
        time.sleep(0.002 * (item % 2 == 0))
        return -item

    for count, answer in enumerate(in_order(slower_if_even, items(), jobs)):
        assert answer == -count
        assert len(taken) <= count + 2 * jobs
    assert len(taken) == 100


def test_abandoned_items_are_not_computed() -> None:
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        if item == 3:
            raise ZeroDivisionError
        return item

    answers = in_order(note, range(1000), 2)
    assert next(answers) == 0
    answers.close()
    assert len(begun) <= 4
    with pytest.raises(ZeroDivisionError):
        list(in_order(note, range(1000), 2))
    assert len(begun) < 20


def test_answers_do_not_depend_on_the_number_of_jobs(pictures: list[str], tmp_path: Path) -> None:
    model = load("nano", threads=1)
    one, three = (list(predict_files(model, pictures, batch_size=5, jobs=jobs)) for jobs in (1, 3))
    assert one == three
    assert [bool(each.error) for each in three] == [index == 4 for index in range(12)]
    same_name = tmp_path / "again" / "01.png"
    same_name.parent.mkdir()
    same_name.write_bytes(Path(pictures[1]).read_bytes())
    texts = []
    for jobs in (1, 3):
        annotated = tmp_path / str(jobs)
        annotated.mkdir()
        found = list(
            read_files(None, [*pictures, str(same_name)], annotated_dir=annotated, jobs=jobs)
        )
        texts.append([each.to_line() for each in found])
        assert "04.png: expected an image" in found[4].error
    assert texts[0] == texts[1]
    assert texts[0][1] == texts[0][-1] != ""
    drawn = [sorted(path.name for path in (tmp_path / str(jobs)).iterdir()) for jobs in (1, 3)]
    assert drawn[0] == drawn[1]
    assert "01-2.png" in drawn[0]


def test_a_folder_that_cannot_be_written_to_ends_the_reading(
    pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DigitNetError, match="expected to write it"):
        list(read_files(load("reader"), pictures, annotated_dir=tmp_path / "file", jobs=2))


def test_the_output_does_not_depend_on_the_number_of_jobs(
    command: Command, pictures: list[str]
) -> None:
    one, more = (
        command("predict", *pictures, "--json", "--jobs", jobs, KERAS_BACKEND=None)
        for jobs in ("1", "3")
    )
    assert (one.returncode, one.stdout, one.stderr) == (more.returncode, more.stdout, more.stderr)
    assert one.returncode == 1
    assert [row["file"] for row in json.loads(more.stdout)] == pictures
    refused = command("read", pictures[0], "--jobs", "0")
    assert refused.returncode == 2
    assert "--jobs" in refused.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_all_jobs(pictures: list[str], number: int, code: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "keras_digitnet", "read", *(300 * pictures), "--jobs", "2"],
        env={k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background makes them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert child.stdout
        child.stdout.readline()
        child.send_signal(number)
        _, errors = child.communicate(timeout=scaled(10))
    finally:
        child.kill()
    assert child.returncode == code
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] in ("Interrupted.", "Terminated.")


def test_threads_restore_the_warning_filters() -> None:
    before = list(warnings.filters)

    def warn(item: int) -> None:
        with without_warnings():
            time.sleep(0.001 * (item % 3))
            warnings.warn("nobody hears it", stacklevel=1)

    with warnings.catch_warnings(record=True) as heard:
        list(in_order(warn, range(50), 4))
        warnings.warn("this is heard", stacklevel=1)
    assert [str(each.message) for each in heard] == ["this is heard"]
    assert list(warnings.filters) == before
