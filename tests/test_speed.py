"""The speed measurements: equivalent peers, correct times, stored figures."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY

from keras_digitnet.config import CLASSIFIERS, ModelConfig


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of scripts/."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.mark.parametrize("config", [TINY, CLASSIFIERS["base"].model])
def test_direct_torch_computes_the_same_as_our_network(
    config: ModelConfig, speed: Callable[[str], Any]
) -> None:
    torch = pytest.importorskip("torch")
    from keras_digitnet.networks.classifier import build_model

    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), "uint8")
    ours = build_model(config)
    direct = speed("speed_peers").DirectDigitNet(config)
    direct.copy_weights([np.array(weight) for weight in ours.trainable_weights])
    with torch.no_grad():
        logits = direct(torch.tensor(images[..., 0][:, None] / 255, dtype=torch.float32))
    np.testing.assert_allclose(logits.numpy(), np.array(ours(images)), atol=1e-4)


def test_time_to_a_goal_is_that_of_the_first_epoch_that_reaches_it(
    speed: Callable[[str], Any],
) -> None:
    curve = {"seconds": [10.0, 20.0, 30.0], "accuracies": [0.98, 0.991, 0.989]}
    assert speed("speed_curves").time_to(0.99, curve) == 20.0
    assert speed("speed_curves").time_to(0.995, curve) == math.inf


@pytest.mark.backends
@pytest.mark.parametrize("callbacks", ["none", "ours", "every step"])
def test_the_overhead_is_a_tiny_networks_step(callbacks: str, speed: Callable[[str], Any]) -> None:
    milliseconds = speed("speed_training").overhead(callbacks, steps=3)()
    assert 0 < milliseconds < math.inf


def test_a_backend_that_lost_more_than_a_third_fails_the_check(
    speed: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = speed("benchmark")
    before = {"torch, direct": {"rate": 1000.0}, "jax, none": {"rate": 500.0}}
    # A machine half as fast, with the same speed relative to direct torch.
    benchmark.require_no_regression(
        before, {name: {"rate": before[name]["rate"] / 2} for name in before}
    )
    with pytest.raises(SystemExit):
        benchmark.require_no_regression(before, {**before, "jax, none": {"rate": 300.0}})
    assert "jax, none: expected about 0.50" in capsys.readouterr().err


def test_a_measurement_is_stored_until_its_settings_change(
    speed: Callable[[str], Any], tmp_path: Path
) -> None:
    processes = speed("speed_processes")
    settings = {"preset": "nano", "images": 1000}
    what = processes.Measurement("speed_answers.growth", settings)
    found = processes.measured("growth", what, tmp_path)
    assert found["seconds"] > 0
    assert processes.stored("growth", what, tmp_path) == found
    changed = processes.Measurement("speed_answers.growth", {**settings, "images": 2000})
    assert processes.stored("growth", changed, tmp_path) is None


def test_many_pictures_get_the_same_answers_in_one_thread_and_on_all_processors(
    speed: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    speed("speed_scale").many(count=5, lines=3, broken=1, ray_python=None, data="digits")
    rows = [
        line.replace("│", " ").split()
        for line in capsys.readouterr().out.splitlines()
        if "`" in line
    ]
    assert len(rows) == 4
    assert all({"1", "True"} <= set(row) for row in rows)  # errors, same answers


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_command_and_its_children(speed: Callable[[str], Any]) -> None:
    child = "import time; block = b'1' * 200_000_000; time.sleep(2)"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    _, megabytes = speed("speed_scale")._timed([sys.executable, "-c", command], sys.stdout, (0,))
    assert 200 < megabytes < 400
