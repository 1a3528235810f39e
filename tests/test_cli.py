import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image

from keras_digitnet import __version__
from keras_digitnet.config import PRESETS
from keras_digitnet.data import Dataset
from keras_digitnet.inference import load

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ("train", "evaluate", "predict", "read", "demo", "export", "presets", "info")


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
        (["predict", "nowhere.png"], "nowhere.png: expected an image; received: no such file"),
        (["predict", "."], ".: expected an image; received: a folder without pictures"),
        (["predict", "a.png", "--model", "nothing"], "received: nothing, which does not exist"),
        (["predict", "a.png", "--json", "--csv"], "expected --json or --csv; received: both"),
        (["read", "nowhere.png"], "nowhere.png: expected an image; received: no such file"),
        (["read", "a.png", "--json", "--csv"], "expected --json or --csv; received: both"),
        (["read", "a.png", "--min-confidence", "2"], "expected 0 to 1; received: 2.0"),
        (["export", "base", "--format", "tflite"], "received: tflite"),
        (["export", "nowhere.keras"], "nowhere.keras, which does not exist"),
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


@pytest.mark.fresh
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


@pytest.fixture
def pictures(tmp_path: Path, digits: Dataset) -> list[str]:
    """A folder with pictures of digits in folders, and one file that is none; their labels."""
    for index in range(6):
        path = tmp_path / "scans" / f"page{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.test.images[index, ..., 0]).save(path)
    (tmp_path / "scans" / "notes.txt").write_text("not a picture, and not called one")
    return [f"scans/page{index % 2}/{index}.png" for index in (0, 2, 4, 1, 3, 5)]


def test_predict_reads_files_and_folders(
    pictures: list[str], digits: Dataset, tmp_path: Path
) -> None:
    """From a cold process, with the shipped model, in ONNX Runtime."""
    program = (
        "import sys\n"
        "from keras_digitnet.cli import app\n"
        "try:\n"
        "    app(['predict', 'scans', 'scans/page1/5.png', '--json'])\n"
        "except SystemExit as end:\n"
        "    heavy = ('keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'matplotlib')\n"
        "    print([n for n in heavy if n in sys.modules], end.code, file=sys.stderr)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert child.stderr.splitlines() == ["[] 0"], child.stderr
    rows = json.loads(child.stdout)
    assert [row["file"] for row in rows] == [*pictures, "scans/page1/5.png"]
    expected = load(ROOT / "saved_models" / "base" / "model.onnx").predict(digits.test.images[:6])
    assert [int(row["label"]) for row in rows] == [
        expected.labels[int(Path(row["file"]).stem)] for row in rows
    ]
    assert all(0.1 < row["confidence"] <= 1 for row in rows)


def test_predict_goes_on_past_a_broken_picture(
    command: Command, pictures: list[str], tmp_path: Path, exported: Path
) -> None:
    broken = tmp_path / pictures[1]
    broken.write_bytes(broken.read_bytes()[:50])
    model = ["--model", str(exported / "model.onnx")]
    shown = command("predict", "scans", *model)
    assert shown.returncode == 1
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == [pictures[0], *pictures[2:]]
    assert shown.stderr.startswith(f"Error: {pictures[1]}: expected an image; received: ")
    assert shown.stderr.count("\n") == 1
    table = command("predict", "scans", *model, "--csv")
    rows = list(csv.DictReader(table.stdout.splitlines()))
    assert [row["file"] for row in rows] == [pictures[0], *pictures[2:]]
    assert shown.stdout.startswith(f"{rows[0]['label']}  ")
    odd_name = os.fsdecode(b"scans/caf\xe9.png")
    shutil.copy(tmp_path / pictures[0], tmp_path / odd_name)
    odd = command("predict", odd_name, *model, PYTHONIOENCODING="utf-8:strict", PYTHONUTF8="0")
    assert (odd.returncode, odd.stderr) == (0, "")
    alone = command("predict", pictures[1], *model, "--json")
    assert (alone.returncode, alone.stdout) == (2, "[]\n")


def test_read_prints_text_csv_and_json_and_draws(
    command: Command, digits: Dataset, tmp_path: Path
) -> None:
    row = np.concatenate(list(digits.test.images[:3, ..., 0]), axis=1)
    picture = Image.fromarray(255 - np.pad(row, 10))
    picture.resize((picture.width * 4, picture.height * 4)).save(tmp_path / "row.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    text = "".join(str(label) for label in digits.test.labels[:3])
    shown = command("read", "row.png", "blank.png", "--annotate", "seen")
    assert (shown.returncode, shown.stdout) == (1, f"{text}\n")
    assert shown.stderr.startswith("Error: blank.png: no ink found")
    assert (tmp_path / "seen" / "row.png").is_file()
    (row_read,) = csv.DictReader(command("read", "row.png", "--csv").stdout.splitlines())
    assert (row_read["text"], row_read["file"]) == (text, "row.png")
    (reading,) = json.loads(command("read", "row.png", "--json").stdout)
    assert reading["text"] == "".join(digit["label"] for digit in reading["digits"])
    assert len(reading["digits"][0]["box"]) == 4


def test_raw_pictures_are_not_normalized(command: Command, digits: Dataset, tmp_path: Path) -> None:
    """A blank picture has a digit only for those who say that it is in MNIST's form."""
    Image.new("L", (28, 28)).save(tmp_path / "blank.png")
    assert command("predict", "blank.png").returncode == 2
    assert command("predict", "blank.png", "--raw").returncode == 0


def test_export_and_evaluate_what_was_exported(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    """Whatever KERAS_BACKEND says."""
    arguments = ["export", str(trained), "--format", "onnx", "--out", "out"]
    answer = command(*arguments, KERAS_BACKEND="jax")
    assert answer.returncode == 0, answer.stderr
    assert "compared with Keras on 359 test images of digits" in " ".join(answer.stdout.split())
    assert "100.00%" in answer.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "config.json"}
    scores = [
        json.loads(command("evaluate", where, "--data", "digits", "--json").stdout)["accuracy"]
        for where in ("out/model.onnx", str(trained))
    ]
    assert scores[0] == scores[1]
    again = command(*arguments, "--json", "--quiet")
    (artifact,) = json.loads(again.stdout)["artifacts"]
    assert artifact["path"] == "out/model.onnx"
    assert artifact["same_labels"] == artifact["images"] == 359


@pytest.mark.fresh
def test_the_readmes_export_in_eight_bits_can_be_scored(command: Command) -> None:
    """Where there is no MNIST, so that the second line is told of the bundled digits."""
    readme = (ROOT / "README.md").read_text()
    exported = "keras-digitnet export nano --format litert --quantize int8"
    scored = "keras-digitnet evaluate exports/nano/model_int8.tflite --data mnist"
    assert readme.index(f"    {exported}\n") < readme.index(f"    {scored}\n")
    answer = command(*exported.split()[1:])
    assert answer.returncode == 0, answer.stderr
    assert "The 359 test images of digits are too few to measure what int8 costs" in answer.stderr
    answer = command(*scored.replace("mnist", "digits").split()[1:], "--json")
    assert json.loads(answer.stdout)["accuracy"] > 0.85, answer.stderr


@pytest.mark.fresh
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
    from keras_digitnet.cli import print_table

    print_table("of [/b]", ("class",), [("[red]",)])
    assert "[red]" in (shown := capsys.readouterr().out)
    assert "of [/b]" in shown


def test_other_classes_than_the_models_are_refused(command: Command, tmp_path: Path) -> None:
    from dataclasses import replace

    from keras_digitnet.model import build_model

    build_model(replace(TINY, num_classes=3)).save(tmp_path / "three.keras")
    answer = command("evaluate", "three.keras", "--data", "digits")
    assert answer.returncode == 2
    assert "expected the model's 3 classes (0, 1, 2)" in answer.stderr
