"""The comparison with other OCR systems, with fake ones, since CI has none of them."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import ROOT
from PIL import Image

# Answers with a picture's size, or in the second way nothing; records its calls.
WORKER = """
import json, sys
from pathlib import Path
from PIL import Image
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write("asked\\n")
answers = {"PP": {}, "Other": {}}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    sizes = [str(Image.open(each).height) for each in sorted(folder.glob("*.png"))]
    answers["PP"][f"{folder.name}, alone"] = sizes
    answers["Other"][f"{folder.name}, mode 7"] = [""] * len(sizes)
print(json.dumps({"versions": {"PP": "PP 1", "Other": "Other 2"}, "answers": answers}))
"""
# Answers a list of pictures like Tesseract, with their names; crashes on one called `bad`.
TESSERACT = """
if sys.argv[1] == "--version":
    print("tesseract 5.3.0\\n leptonica-1.82.0")
    sys.exit()
print("level\\ttext")
for line in sys.stdin:
    name = Path(line.strip()).stem
    if name == "bad":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGFPE)
    print("1\\t")
    if name != "blank":
        print("5\\t" + name[0] + "\\n5\\t" + name[1:])
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Imports a module of scripts/, with an empty home folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return importlib.import_module


@pytest.fixture
def asked(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Installs a fake worker; returns a file with one line per call."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(script("peers"), "COMMAND", (sys.executable, str(worker)))
    return worker.with_suffix(".log")


def test_the_best_result_of_each_peer_is_in_the_table(script: Any, asked: Path) -> None:
    peers = script("peers")
    tiny = np.full((20, 30), 255, np.uint8)
    tall = np.full((80, 30), 255, np.uint8)
    # Unchanged, 20 and 80 pixels high; enlarged, at least 64 with a margin of 8 on both sides.
    sets = {"plain": ([tiny, tall], ["20", "80"]), "large": ([tiny, tall], ["80", "80"])}
    single = ([tiny], ["2"])
    columns, rows, versions = peers.compare(
        {**sets, "single": single}, lambda picture: str(picture.shape[0]), lambda picture: "2"
    )
    assert columns == [
        "set",
        "pictures",
        "`read`",
        "`predict`",
        "PP",
        "best setting",
        "Other",
        "best setting",
    ]
    assert rows == [
        ["plain", "2", "100.0%", "-", "100.0%", "as it is, alone", "0.0%", "as it is, mode 7"],
        ["large", "2", "50.0%", "-", "50.0%", "as it is, alone", "0.0%", "as it is, mode 7"],
        ["single", "1", "0.0%", "100.0%", "0.0%", "as it is, alone", "0.0%", "as it is, mode 7"],
    ]
    assert versions == "PP 1, Other 2"


def test_the_same_pictures_are_not_read_twice(script: Any, asked: Path) -> None:
    peers = script("peers")
    pictures = [np.zeros((20, 20), np.uint8)]
    assert peers.answers(pictures) == peers.answers(pictures)
    assert len(asked.read_text().splitlines()) == 1
    peers.answers([np.ones((20, 20), np.uint8)])
    assert len(asked.read_text().splitlines()) == 2


def test_peers_that_fail_to_start_leave_no_answers(
    script: Any, asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peers = script("peers")
    monkeypatch.setattr(peers, "COMMAND", (sys.executable, "-c", "raise SystemExit(2)"))
    with pytest.raises(typer.Exit) as ended:
        peers.answers([np.zeros((20, 20), np.uint8)])
    assert ended.value.exit_code == 2
    assert not list(tmp_path.glob("cache/**/*.json"))


def test_small_light_pictures_are_enlarged_and_inverted_with_a_margin(script: Any) -> None:
    grey = np.full((16, 8), 20, np.uint8)
    grey[4:12, 3:5] = 250
    enlarged = script("peers").enlarged(Image.fromarray(grey).convert("RGB"))
    assert enlarged.size == (32 + 16, 64 + 16)
    pixels = np.asarray(enlarged)[..., 0]
    assert pixels[0, 0] == pixels[-1, -1] == 235
    assert pixels.min() < 20


def test_the_sample_of_single_digits_is_fixed(script: Any) -> None:
    peers = script("peers")
    count = peers.SAMPLE + 100
    pictures, labels = peers.sample(range(count), ["7"] * count)
    assert len(labels) == len(set(pictures)) == peers.SAMPLE
    assert (pictures, labels) == peers.sample(range(count), ["7"] * count)
    assert len(peers.sample(range(count), ["71"] * count)[0]) == count


def test_a_picture_that_tesseract_crashes_on_is_blank(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "tesseract"
    program.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\nfrom pathlib import Path\n{TESSERACT}"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    worker = script("peers_worker")
    pictures = [Path(f"{name}.png") for name in ("12", "blank", "bad", "bad", "345")]
    assert worker.tesseract(pictures, mode=7) == ["12", "", "", "", "345"]
    assert worker.tesseract_version() == "5.3.0"


def test_a_tesseract_that_cannot_start_is_not_a_blank_answer(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "tesseract"
    program.write_text(f"#!{shutil.which('bash')}\necho 'no language data' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no language data"):
        script("peers_worker").tesseract([Path("12.png")], mode=7)


def test_without_tesseract_there_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(str(shutil.which("dirname")))
    answer = subprocess.run(
        [str(shutil.which("bash")), str(ROOT / "scripts" / "peers.sh"), str(tmp_path)],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: expected tesseract on the PATH; found none.")
    assert answer.stderr.count("\n") == 1


def test_a_folder_of_sets_becomes_a_table(
    script: Any,
    asked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate, readme = script("evaluate_real_digits"), script("readme")
    sets = tmp_path / "sets"
    sets.mkdir()
    np.savez(sets / "blank.npz", images=np.full((3, 40, 40), 200, np.uint8), labels=[1, 2, 3])
    page = tmp_path / "README.md"
    monkeypatch.setattr(readme, "READMES", (page,))
    page.write_text("<!-- peers: start -->\n\n<!-- peers: end -->\n")
    no_models = evaluate.Pipeline(None, None)  # not used for paper without ink
    evaluate.compare_with_peers(sets, "", no_models, 0, write=True)
    assert page.read_text().splitlines() == [
        "<!-- peers: start -->",
        "",
        "| set | pictures | `read` | `predict` | PP | best setting | Other | best setting |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| blank | 3 | 0.0% | 0.0% | 0.0% | as it is, alone | 0.0% | as it is, mode 7 |",
        "",
        "(PP 1, Other 2.)",
        "",
        "<!-- peers: end -->",
    ]
