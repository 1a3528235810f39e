import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, TINY
from environments import users_environment, without_backend
from PIL import Image

from keras_digitnet import __version__
from keras_digitnet.config import PRESETS
from keras_digitnet.data import Dataset
from keras_digitnet.reading.inference import load

Command = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ("train", "evaluate", "predict", "read", "demo", "export", "runs", "presets", "info")


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
def test_every_command_has_help_and_is_in_the_reference(command: Command, name: str) -> None:
    answer = command(name, "--help")
    assert answer.returncode == 0
    assert f"keras-digitnet {name}" in answer.stdout
    assert f"keras-digitnet {name}" in (ROOT / "keras_digitnet" / "README.md").read_text()


def test_the_reference_lists_every_flag() -> None:
    """The reference is generated from `--help` by scripts/readme_reference.py."""
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
        (["train", "--preset", "smal"], "received: 'smal'. Did you mean small?"),
        (["train", "--epochs", "0"], "epochs: expected a whole number of 1 or more; received: 0"),
        (["train", "--augmentation", "x"], "augmentation: expected one of affine, layers, none"),
        (["train", "--backend", "numpy"], "backend: expected one of tensorflow, jax, torch"),
        (["train", "--backend", "pytorch"], "received: 'pytorch'. Did you mean torch?"),
        (["train", "--data", "mnst"], "which does not exist. Did you mean mnist?"),
        (["train", "--data", "nowhere"], "'nowhere', which does not exist"),
        (
            ["train", "--resume", "nowhere"],
            "nowhere: expected the folder of a run; received: no folder",
        ),
        (["train", "--resume", "x", "--epochs", "9", "--no-test"], "received: --epochs, --test"),
        (["evaluate", "base", "--data", "Digit"], "which does not exist. Did you mean digits?"),
        (["evaluate", "nowhere.keras"], "received: nowhere.keras, which does not exist"),
        (["predict", "nowhere.png"], "nowhere.png: expected an image; received: no such file"),
        (["predict", "."], ".: expected an image; received: a folder without pictures"),
        (["predict", "a.png", "--model", "nothing"], "received: nothing, which does not exist"),
        (["train", "--data", "digits", "--start", "Nano"], "does not exist. Did you mean nano?"),
        (["predict", "a.png", "--model", "bas"], "which does not exist. Did you mean base?"),
        (["demo", "--model", "bas"], "which does not exist. Did you mean base?"),
        (["predict", "a.png", "--json", "--csv"], "expected --json or --csv; received: both"),
        (["read", "nowhere.png"], "nowhere.png: expected an image; received: no such file"),
        (["read", "a.png", "--json", "--csv"], "expected --json or --csv; received: both"),
        (["read", "a.png", "--min-confidence", "2"], "expected 0 to 1; received: 2.0"),
        (["export", "base", "--format", "tflite"], "received: tflite"),
        (["export", "base", "--format", "onx"], "received: onx. Did you mean onnx?"),
        (["runs", "nowhere"], "nowhere: expected a folder with runs; received: no such folder"),
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


CHEAP = [
    ["train", "--data", "mnst"],
    ["train", "--data", "empty"],
    ["train", "--data", "digits", "--out", "file/runs"],
    ["train", "--preset", "nao"],
    ["train", "--backend", "jx"],
    ["train", "--data", "digits", "--devices", "two"],
    ["train", "--data", "digits", "--devices", "2"],
    ["train", "--resume", "finished"],
    ["train", "--data", "digits", "--start", "nowhere.keras"],
    ["evaluate", "finished", "--data", "mnst"],
    ["evaluate", "finished", "--backend", "jx"],
    ["evaluate", "finished", "--data", "digits", "--pictures", "file/x"],
    ["evaluate", "base", "nowhere.keras", "--data", "digits"],
    ["predict", "nowhere.png", "--model", "finished"],
    ["predict", "file", "--model", "finished", "--backend", "jx"],
    ["predict", "file", "--model", "http://localhost:1/v1/x"],
    ["read", "nowhere.png", "neither.png", "--model", "finished", "--json"],
    ["read", "file", "--model", "finished", "--min-confidence", "1.5"],
    ["read", "file", "--model", "finished", "--annotate", "file/x"],
    ["demo", "--model", "nowhere.keras"],
    ["export", "nowhere.keras"],
    ["export", "base", "--format", "onx"],
    ["export", "base", "--format", "onnx", "--out", "file/x"],
    ["export", "reader", "--format", "litert_int8"],
    ["predict", "file", "--reader", "base"],
    ["predict", "file", "--raw", "--model", "reader"],
]


@pytest.mark.parametrize("arguments", CHEAP, ids=" ".join)
def test_mistakes_are_reported_before_slow_imports(
    trained: Path, tmp_path: Path, arguments: list[str]
) -> None:
    shutil.copytree(trained, tmp_path / "finished")
    (tmp_path / "finished" / "metrics.json").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    program = (
        "import sys\n"
        "from keras_digitnet.cli import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    slow = ('keras', 'tensorflow', 'jax', 'torch', 'onnxruntime', 'fastapi')\n"
        "    print(end.code, [name for name in slow if name in sys.modules], file=sys.stderr)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.stderr.startswith("Error: ")
    assert child.stderr.splitlines()[-1] == "2 []"


@pytest.mark.parametrize("arguments", [["--trane"], ["trane"], ["train", "--epoch", "3"], []])
def test_a_wrong_flag_or_command_is_exit_code_2(command: Command, arguments: list[str]) -> None:
    answer = command(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


@pytest.mark.backends
def test_info_shows_the_backend_and_its_devices(command: Command, backend: str) -> None:
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
    """The first run without a network, in a process; with `nano`, which is fast."""
    offline = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": "http://127.0.0.1:9"}
    arguments = ["train", "--preset", "nano", "--epochs", "3", "--json"]
    answer = command(*arguments, **offline)
    assert answer.returncode == 0, answer.stderr
    metrics = json.loads(answer.stdout)
    assert metrics["dataset"] == "digits"
    assert metrics["backend"] == backend
    assert metrics["test"]["accuracy"] > 0.9
    assert answer.stderr.count("MNIST cannot be downloaded") == 1
    assert answer.stderr.index("MNIST cannot be") < answer.stderr.index("Epoch 1/3")
    assert "Epoch 3/3" in answer.stderr
    run_dir = tmp_path / metrics["run"]
    assert run_dir.parent == tmp_path / "runs"
    assert (run_dir / "saved_model" / "digitnet" / "1" / "saved_model.pb").is_file()

    assert "-digits-nano-" in run_dir.name
    answer = command("evaluate", str(run_dir), "--json", "--pictures", "p", **offline)
    report = json.loads(answer.stdout)
    assert report["dataset"] == "digits"
    assert report["accuracy"] == metrics["test"]["accuracy"]
    assert {"accuracy", "loss", "top2_accuracy", "n"} <= report.keys()
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "confusion_matrix.png",
        "mistakes.png",
    }

    shown = command("evaluate", str(run_dir), "--data", "digits", "--quiet")
    assert "accuracy" in shown.stdout
    assert shown.stderr == ""

    (run,) = json.loads(command("runs", "--json").stdout)
    assert (run["run"], run["accuracy"]) == (metrics["run"], metrics["test"]["accuracy"])
    table = command("runs").stdout
    assert run_dir.name in table
    assert f"{run['accuracy']:.2%}" in table


@pytest.fixture
def pictures(tmp_path: Path, digits: Dataset) -> list[str]:
    """A folder of pictures in subfolders, with a file that is not a picture; and their labels."""
    for index in range(6):
        path = tmp_path / "scans" / f"page{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.test.images[index, ..., 0]).save(path)
    (tmp_path / "scans" / "notes.txt").write_text("not a picture, and not called one")
    return [f"scans/page{index % 2}/{index}.png" for index in (0, 2, 4, 1, 3, 5)]


def test_predict_reads_files_and_folders(
    pictures: list[str], digits: Dataset, tmp_path: Path
) -> None:
    """In a new process, with the shipped model, in ONNX Runtime."""
    program = (
        "import sys\n"
        "from keras_digitnet.cli import app\n"
        "try:\n"
        "    app(['predict', 'scans', 'scans/page1/5.png', '--json'])\n"
        "except SystemExit as end:\n"
        "    heavy = ('keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'matplotlib')\n"
        "    print([n for n in heavy if n in sys.modules], end.code, file=sys.stderr)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=without_backend(),
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


def test_predict_continues_after_a_broken_picture(
    command: Command, pictures: list[str], tmp_path: Path, exported: Path
) -> None:
    broken = tmp_path / pictures[1]
    broken.write_bytes(broken.read_bytes()[:50])
    model = ["--model", str(exported / "model.onnx")]
    shown = command("predict", "scans", *model)
    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    assert lines[1].startswith(f"Error: {pictures[1]}: expected an image; received: ")
    assert shown.stderr == f"{lines[1]}\n"
    assert [line.split()[-1] for line in [lines[0], *lines[2:]]] == [pictures[0], *pictures[2:]]
    table = command("predict", "scans", *model, "--csv")
    rows = list(csv.DictReader(table.stdout.splitlines()))
    assert [row["file"] for row in rows] == pictures
    assert [bool(row["error"]) for row in rows] == [False, True, False, False, False, False]
    assert (rows[1]["label"], rows[1]["confidence"]) == ("", "")
    assert lines[0].startswith(f"{rows[0]['label']}  ")
    odd_name = os.fsdecode(b"scans/caf\xe9.png")
    shutil.copy(tmp_path / pictures[0], tmp_path / odd_name)
    odd = command("predict", odd_name, *model, PYTHONIOENCODING="utf-8:strict", PYTHONUTF8="0")
    assert (odd.returncode, odd.stderr) == (0, "")
    alone = command("predict", pictures[1], *model, "--json")
    assert alone.returncode == 2
    (row,) = json.loads(alone.stdout)
    assert row == {
        "file": pictures[1],
        "label": None,
        "confidence": None,
        "error": rows[1]["error"],
    }


def test_read_prints_text_csv_and_json_and_draws(
    command: Command, digits: Dataset, tmp_path: Path
) -> None:
    row = np.concatenate(list(digits.test.images[:3, ..., 0]), axis=1)
    picture = Image.fromarray(255 - np.pad(row, 10))
    picture.resize((picture.width * 4, picture.height * 4)).save(tmp_path / "row.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    text = "".join(str(label) for label in digits.test.labels[:3])
    assert command("read", "row.png").stdout == f"{text}\n"
    both = ("row.png", "blank.png")
    shown = command("read", *both, "--annotate", "annotated")
    assert shown.returncode == 1
    of_row, of_blank = shown.stdout.splitlines()
    assert of_row.startswith(f"{text}  ")
    assert of_row.endswith("%  row.png")
    assert of_blank.startswith("Error: blank.png: no digit found")
    assert shown.stderr == f"{of_blank}\n"
    assert (tmp_path / "annotated" / "row.png").is_file()
    before = (tmp_path / "row.png").read_bytes()
    assert "which holds row.png" in command("read", "row.png", "--annotate", ".").stderr
    assert (tmp_path / "row.png").read_bytes() == before
    in_csv = command("read", *both, "--csv").stdout.splitlines()
    assert len(in_csv) == 3
    row_read, blank_read = csv.DictReader(in_csv)
    assert (row_read["text"], row_read["file"], row_read["error"]) == (text, "row.png", "")
    assert (blank_read["text"], blank_read["file"]) == ("", "blank.png")
    assert f"Error: {blank_read['error']}" == of_blank
    reading, failed = json.loads(command("read", *both, "--json").stdout)
    assert reading["text"] == "".join(digit["label"] for digit in reading["digits"])
    assert len(reading["digits"][0]["box"]) == 4
    assert reading["error"] is None
    nothing = {"text": None, "confidence": None, "digits": None}
    assert failed == {"file": "blank.png", **nothing, "error": blank_read["error"]}


def test_each_picture_of_a_folder_is_named(
    command: Command, digits: Dataset, tmp_path: Path
) -> None:
    """The form of JSON does not depend on the number of pictures."""
    (tmp_path / "scans").mkdir()
    Image.fromarray(digits.test.images[0, ..., 0]).save(tmp_path / "scans" / "a.png")
    assert command("read", "scans").stdout.endswith("  scans/a.png\n")


def test_a_picture_is_read_from_standard_input(digits: Dataset, tmp_path: Path) -> None:
    def piped(content: bytes, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "keras_digitnet", *arguments]
        child = subprocess.run(
            command, cwd=tmp_path, env=users_environment(), input=content, capture_output=True
        )
        return child.returncode, child.stdout.decode(), child.stderr.decode()

    Image.fromarray(digits.test.images[0, ..., 0]).save(tmp_path / "digit.png")
    content = (tmp_path / "digit.png").read_bytes()
    label = str(digits.test.labels[0])
    code, shown, _ = piped(content, "predict", "-")
    assert (code, shown[0], shown[-5:]) == (0, label, "%  -\n")
    assert piped(content, "read", "-", "--annotate", "annotated") == (0, f"{label}\n", "")
    assert (tmp_path / "annotated" / "-.png").is_file()
    both = json.loads(piped(content, "predict", "digit.png", "-", "--json")[1])
    assert [row["file"] for row in both] == ["digit.png", "-"]
    assert both[0]["confidence"] == both[1]["confidence"]
    for wrong, received in ((b"", "no data."), (b"GIF8, not", "a file that is none of")):
        code, shown, error = piped(wrong, "predict", "-")
        assert (code, shown) == (2, "")
        assert error.startswith(f"Error: -: expected an image; received: {received}")


def test_predict_refuses_several_digits_and_names_read(
    command: Command, digits: Dataset, tmp_path: Path
) -> None:
    large = [np.kron(image[..., 0], np.ones((4, 4), np.uint8)) for image in digits.test.images[:4]]
    for count in (1, 2, 4):
        row = np.concatenate(large[:count], axis=1)
        Image.fromarray(255 - row).save(tmp_path / f"{count}.png")
    answer = command("predict", "1.png", "2.png", "4.png", "--json")
    assert answer.returncode == 1
    one, *more = json.loads(answer.stdout)
    assert one["label"] == str(digits.test.labels[0])
    for row, count in zip(more, (2, 4), strict=True):
        assert row["label"] is None
        assert row["error"] == (
            f"{count}.png: expected one digit; received: {count} of them. "
            f"Read a number with: keras-digitnet read"
        )
    assert command("predict", "4.png").returncode == 2
    assert command("predict", "4.png", "--raw").returncode == 0


def test_predict_refuses_strokes_that_are_doubtful_one_by_one(
    command: Command, tmp_path: Path
) -> None:
    """A 1 beside another one is as sure as the surest of them."""
    page = np.full((132, 180), 255, np.uint8)
    for left, lean in ((56, 3), (118, 5)):
        cv2.line(page, (left + lean, 32), (left - lean, 98), 0, 8, cv2.LINE_AA)
    Image.fromarray(page).save(tmp_path / "11.png")
    answer = command("predict", "11.png")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "11.png: expected one digit; received: 2 of them." in answer.stderr


def test_raw_pictures_are_not_normalized(command: Command, digits: Dataset, tmp_path: Path) -> None:
    """A blank picture is classified only with `--raw`."""
    Image.new("L", (28, 28)).save(tmp_path / "blank.png")
    assert command("predict", "blank.png").returncode == 2
    assert command("predict", "blank.png", "--raw").returncode == 0


def test_an_export_can_be_evaluated(command: Command, trained: Path, tmp_path: Path) -> None:
    """Export does not depend on KERAS_BACKEND."""
    arguments = ["export", str(trained), "--format", "onnx", "--out", "out"]
    answer = command(*arguments, "--format", "litert", KERAS_BACKEND="jax")
    assert answer.returncode == 0, answer.stderr
    assert "compared with Keras on 359 test images of digits" in " ".join(answer.stdout.split())
    assert "100.00%" in answer.stdout
    written = {"model.onnx", "model.tflite", "config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    scores = [
        json.loads(command("evaluate", where, "--json").stdout)
        for where in ("out/model.onnx", "out", str(trained))
    ]
    assert {score["dataset"] for score in scores} == {"digits"}
    assert len({score["accuracy"] for score in scores}) == 1
    again = command(*arguments, "--json", "--quiet")
    (artifact,) = json.loads(again.stdout)["artifacts"]
    assert artifact["path"] == "out/model.onnx"
    assert artifact["same_labels"] == artifact["images"] == 359


@pytest.mark.fresh
def test_the_readmes_int8_export_can_be_evaluated(command: Command) -> None:
    """Without MNIST, on the bundled digits."""
    readme = (ROOT / "README.md").read_text()
    exported = "keras-digitnet export nano --format litert_int8"
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


def test_class_names_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    from keras_digitnet.cli.output import print_table

    print_table("of [/b]", ("class",), [("[red]",)])
    assert "[red]" in (shown := capsys.readouterr().out)
    assert "of [/b]" in shown


def test_other_classes_than_the_models_are_refused(command: Command, tmp_path: Path) -> None:
    from dataclasses import replace

    from keras_digitnet.networks.classifier import build_model

    build_model(replace(TINY, num_classes=3)).save(tmp_path / "three.keras")
    answer = command("evaluate", "three.keras", "--data", "digits")
    assert answer.returncode == 2
    assert "expected the model's 3 classes (0, 1, 2)" in answer.stderr
