import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from keras_digitnet import __version__
from keras_digitnet.config import PRESETS

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ("train", "evaluate", "presets", "info")


def test_help_starts_without_keras_or_a_backend() -> None:
    program = (
        "import sys\n"
        "from keras_digitnet.cli import app\n"
        "try:\n"
        "    app(['train', '--help'])\n"
        "except SystemExit:\n"
        "    print([n for n in ('keras', 'tensorflow', 'jax', 'torch', 'numpy', 'sklearn')\n"
        "           if n in sys.modules])\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout.strip().endswith("[]"), child.stdout + child.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command: Command, name: str) -> None:
    answer = command(name, "--help")
    assert answer.returncode == 0
    assert f"keras-digitnet {name}" in answer.stdout
    assert f"keras-digitnet {name}" in (ROOT / "README.md").read_text()


def test_the_readme_lists_every_flag() -> None:
    """The README's reference is what `--help` says; scripts/readme_reference.py writes it."""
    child = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme_reference.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_version_and_presets(command: Command) -> None:
    assert command("--version").stdout == f"keras-digitnet {__version__}\n"
    assert all(name in command("presets").stdout for name in PRESETS)
    listed = json.loads(command("presets", "--json").stdout)
    assert listed["nano"]["parameters"] == PRESETS["nano"].parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "huge"], "preset: expected one of nano, small, base"),
        (["train", "--epochs", "0"], "epochs: expected a whole number of 1 or more; received: 0"),
        (["train", "--augmentation", "x"], "augmentation: expected one of affine, layers, none"),
        (["train", "--backend", "numpy"], "backend: expected one of tensorflow, jax, torch"),
        (["train", "--data", "nowhere"], "'nowhere', which does not exist"),
        (["train", "--resume", "nowhere"], "nowhere/config.json: expected a JSON file"),
        (["train", "--resume", "x", "--epochs", "9", "--no-test"], "also: --epochs, --test"),
        (["evaluate", "nowhere.keras"], "received: nowhere.keras, which does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: Command, arguments: list[str], message: str
) -> None:
    answer = command(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1
    assert message in answer.stderr


@pytest.mark.parametrize("arguments", [["--trane"], ["trane"], ["train", "--epoch", "3"], []])
def test_a_wrong_flag_or_command_is_exit_code_2(command: Command, arguments: list[str]) -> None:
    answer = command(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


@pytest.mark.backends
def test_info_tells_the_backend_and_its_devices(command: Command, backend: str) -> None:
    found = json.loads(command("info", "--json").stdout)
    assert found["backend"] == backend
    assert {"python", "keras", "numpy"} <= found["versions"].keys()
    assert found["devices"]
    shown = command("info", "--backend", backend).stdout
    assert f"backend: {backend}" in shown
    assert found["versions"]["keras"] in shown


@pytest.mark.backends
def test_train_and_evaluate_without_a_network(
    command: Command, tmp_path: Path, backend: str
) -> None:
    """The offline first run, as a process; nano to be quick."""
    offline = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": "http://127.0.0.1:9"}
    arguments = ["train", "--preset", "nano", "--epochs", "4", "--json"]
    answer = command(*arguments, **offline)
    assert answer.returncode == 0, answer.stderr
    metrics = json.loads(answer.stdout)
    assert metrics["dataset"] == "digits"
    assert metrics["backend"] == backend
    assert metrics["test"]["accuracy"] > 0.9
    assert answer.stderr.count("MNIST cannot be downloaded") == 1
    assert answer.stderr.index("MNIST cannot be") < answer.stderr.index("Epoch 1/4")
    assert "Epoch 4/4" in answer.stderr
    run_dir = tmp_path / metrics["run"]
    assert run_dir.parent == tmp_path / "runs"
    assert (run_dir / "saved_model" / "digitnet" / "1" / "saved_model.pb").is_file()

    answer = command("evaluate", str(run_dir), "--data", "digits", "--json", "--pictures", "p")
    report = json.loads(answer.stdout)
    assert report["accuracy"] == metrics["test"]["accuracy"]
    assert {"accuracy", "loss", "top2_accuracy", "n"} <= report.keys()
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "confusion_matrix.png",
        "mistakes.png",
    }
    shown = command("evaluate", str(run_dir), "--data", "digits", "--quiet")
    assert "accuracy" in shown.stdout
    assert shown.stderr == ""


def test_mnist_by_name_fails_without_a_network(command: Command, tmp_path: Path) -> None:
    offline = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": "http://127.0.0.1:9"}
    answer = command("train", "--data", "mnist", **offline)
    assert answer.returncode == 2
    downloading, error = answer.stderr.splitlines()
    assert downloading.startswith("Downloading https://")
    assert error.startswith("Error: https://")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_one_message(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = command("train", "--data", "digits", "--out", "file/runs")
    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: ")
    assert "Traceback" not in answer.stderr


def test_class_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from keras_digitnet.cli import _print_table

    _print_table("of [/b]", ("class",), [("[red]",)])
    assert "[red]" in (shown := capsys.readouterr().out)
    assert "of [/b]" in shown


def test_other_classes_than_the_models_are_refused(command: Command, tmp_path: Path) -> None:
    from dataclasses import replace

    from keras_digitnet.model import build_model

    build_model(replace(TINY, num_classes=3)).save(tmp_path / "three.keras")
    answer = command("evaluate", "three.keras", "--data", "digits")
    assert answer.returncode == 2
    assert "expected the model's 3 classes (0, 1, 2)" in answer.stderr
