"""Threads and processes that share a model get correct answers; no output is lost."""

import copy
import os
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import keras_digitnet as kd
from keras_digitnet.data import Dataset

EXPORTS = ("digitnet", "model.onnx", "model.tflite", "model_int8.tflite", "model.xml")
# Formats that work in a fork of the process that loaded the model.
FORKABLE = ("model.onnx", "model.tflite", "model.xml")


def answers_of_threads(classifier: kd.Classifier, images: np.ndarray, rounds: int) -> Counter[str]:
    expected = classifier.predict(images).labels

    def ask(index: int) -> str:
        try:
            (label,) = classifier.predict(images[index : index + 1]).labels
        except kd.DigitNetError as error:
            return str(error)
        return "right" if label == expected[index] else "wrong"

    with ThreadPoolExecutor(8) as threads:
        return Counter(threads.map(ask, list(range(len(images))) * rounds))


@pytest.mark.parametrize("name", EXPORTS)
def test_threads_share_an_exported_model(exported: Path, digits: Dataset, name: str) -> None:
    classifier = kd.load(exported / name)
    assert isinstance(classifier, kd.Classifier)
    assert answers_of_threads(classifier, digits.test.images[:100], 5) == {"right": 500}


@pytest.mark.backends
def test_threads_share_a_model_in_keras(digits: Dataset, backend: str) -> None:
    classifier = kd.load("nano", backend)
    assert isinstance(classifier, kd.Classifier)
    assert answers_of_threads(classifier, digits.test.images[:50], 2) == {"right": 100}


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


LOADING = r"""
import os, sys, threading
import keras_digitnet as kd

before, loaded, said = os.fstat(2), [], 0

def load():
    loaded.append(kd.load(sys.argv[1], sys.argv[2] or None))

for _ in range(3):
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sys.stderr.write(f"{said}\n")  # in one piece
        said += 1
        threads[0].join(0.01)
after = os.fstat(2)
assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
print(len(loaded), said)
"""


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.xml"])
def test_loading_in_threads_loses_no_output(exported: Path, name: str) -> None:
    child = run(LOADING, exported / name, "")
    assert child.returncode == 0, child.stderr
    models, lines = map(int, child.stdout.split())
    assert models == 12
    # Lines written in the meantime come after it.
    assert sorted(map(int, child.stderr.splitlines())) == list(range(lines))


@pytest.mark.backends
def test_loading_in_threads_starts_keras_once(backend: str) -> None:
    child = run(LOADING, "nano", backend)
    assert child.returncode == 0, child.stderr
    models, lines = map(int, child.stdout.split())
    assert models == 12
    said = [line for line in child.stderr.splitlines() if line.isdigit()]
    assert sorted(map(int, said)) == list(range(lines))


FORKING = """
import os, signal, sys
import keras_digitnet as kd

model = kd.load(sys.argv[1], sys.argv[2] or None)
images = kd.load_dataset("digits").test.images[:64]
expected = model.predict(images).labels
for load in (lambda: model, lambda: kd.load(sys.argv[1], sys.argv[2] or None)):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(100)
        try:
            answer = (load().predict(images).labels == expected).all()
        except kd.DigitNetError as error:
            answer = error
        print(answer, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("name", FORKABLE)
def test_a_fork_can_use_a_loaded_model(exported: Path, name: str) -> None:
    child = run(FORKING, exported / name, "")
    assert child.stdout.splitlines() == ["True", "True"], child.stderr


@pytest.mark.backends
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_that_would_hang_is_one_message(backend: str) -> None:
    child = run(FORKING, "nano", backend)
    assert len(child.stdout.splitlines()) == 2, child.stderr
    for line in child.stdout.splitlines():
        assert (
            "model.keras: expected a process that was not forked after a model was opened" in line
        )
        assert "spawn" in line


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_a_model_is_one_message(attempt: object) -> None:
    assert callable(attempt)
    with pytest.raises(
        kd.DigitNetError, match=r"Load it in the worker, by name: kd\.load\('.*nano"
    ):
        attempt(kd.load("nano"))
