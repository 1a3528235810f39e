"""The script that measures accuracy, on one epoch of the bundled digits."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from keras_digitnet.artifacts import read_json, write_json


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script: Any = importlib.import_module("verify_accuracy")
    monkeypatch.setattr(script, "ENSEMBLE", "nano")
    monkeypatch.setattr(script, "RECIPES", {"default": {"nano": {"epochs": 1}}})

    def run(seeds: int) -> None:
        script.main(["nano"], None, seeds, "digits", tmp_path, False)

    return run


def test_finished_seeds_are_kept_and_training_resumes(
    verify: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(1)
    path = tmp_path / "nano-default-0.json"
    result = read_json(path)
    write_json(path, {**result, "accuracy": 0.4321})  # marks the stored result
    capsys.readouterr()
    verify(2)
    assert "43.21," in capsys.readouterr().out
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2
    ensemble = read_json(tmp_path / "nano-default-ensemble.json")
    assert [member["seed"] for member in ensemble["members"]] == [0, 1]

    # The result of another recipe is not used; the existing run is.
    stale = {**result["train"], "weight_decay": 0.9}
    write_json(path, {**result, "accuracy": 0.4321, "train": stale})
    verify(1)
    assert read_json(path) == result
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2
