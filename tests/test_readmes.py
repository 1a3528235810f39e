"""The READMEs: links are not broken, and code blocks run unchanged."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from environments import users_environment

from keras_digitnet.artifacts import read_json
from keras_digitnet.data import Dataset

READMES = sorted(
    path.relative_to(ROOT)
    for pattern in ("README.md", "*/README.md", "saved_models/*/README.md", "scripts/*.md")
    for path in ROOT.glob(pattern)
    if not path.name.endswith("_card.md")
)


def anchors(path: Path) -> set[str]:
    """The anchors of all headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_links_are_not_broken(readme: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", (ROOT / readme).read_text()):
        name, _, anchor = link.partition("#")
        target = (ROOT / readme).parent / name if name else ROOT / readme
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 12_000


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files of a checkout but no earlier output."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = (
        users_environment()
        | variables
        | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
    )
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


def python_blocks(readme: str = "README.md") -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)


def test_the_front_pages_python_runs(checkout: Path) -> None:
    block, *_ = python_blocks()
    printed = run([sys.executable, "-c", block], checkout)
    assert printed.startswith("7 0.")
    assert (checkout / "exports" / "tour" / "digitnet" / "1" / "saved_model.pb").is_file()


def test_the_front_pages_commands_run(checkout: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## Command line\n")[2]
    commands = re.findall(r"^    (keras-digitnet .*)$", section.partition("\n## ")[0], re.M)
    assert len(commands) == 5
    printed = run(["bash", "-euc", "\n".join(commands)], checkout)
    assert printed.startswith("20260714 48151623 90210 314159 602214076\n")
    assert (checkout / "annotated" / "page.png").is_file()
    assert (checkout / "exports" / "base" / "digitnet" / "1" / "saved_model.pb").is_file()


def test_the_python_about_models_runs(checkout: Path) -> None:
    """That of the models' README and of each model's card."""
    (checkout / "exports").symlink_to(ROOT / "saved_models")
    (checkout / "amount.jpg").symlink_to(ROOT / "scripts" / "page.jpg")
    readmes = [str(readme) for readme in READMES if readme.parts[0] == "saved_models"]
    blocks = [block for readme in readmes for block in python_blocks(readme)]
    assert len(blocks) == len(readmes) == 5
    program = "import keras_digitnet as kd\nimages = kd.load_dataset('digits').test.images[:10]\n"
    run([sys.executable, "-c", program + "\n".join(blocks)], checkout)


def test_the_pipeline_example_answers_per_picture() -> None:
    pandas = pytest.importorskip("pandas")
    scope: dict[str, Any] = {}
    _, block = python_blocks("scripts/README.md")
    exec(block, scope)
    content = [(ROOT / "scripts" / "seven.png").read_bytes(), b"no picture"]
    (frame,) = scope["answers"]([pandas.DataFrame({"path": ["a", "b"], "content": content})])
    assert list(frame["label"]) == ["7", ""]
    assert frame["error"][1].startswith("b: expected an image")


def options_in_readmes() -> dict[tuple[str, ...], set[str]]:
    """The options that the READMEs use, by program and command."""
    program = r"^    (?:[\w./-]*python )?(keras-digitnet|scripts/\w+\.py)(.*)$"
    text = "\n".join((ROOT / readme).read_text() for readme in READMES).replace("\\\n", " ")
    options: dict[tuple[str, ...], set[str]] = {}
    for name, arguments in re.findall(program, text, re.M):
        words = shlex.split(arguments, comments=True)
        of_name = (name, *(word for word in words[:1] if re.fullmatch("[a-z]+", word)))
        options.setdefault(of_name, set()).update(w for w in words if w.startswith("--"))
    return options


@pytest.mark.parametrize("command", options_in_readmes(), ids=" ".join)
def test_the_options_in_the_readmes_exist(command: tuple[str, ...]) -> None:
    """Some of these commands take hours, so that no test runs them."""
    options = options_in_readmes()[command]
    program, *names = command
    start = ["-m", "keras_digitnet"] if program == "keras-digitnet" else [str(ROOT / program)]
    shown = run([sys.executable, *start, *names, "--help"], ROOT, COLUMNS="200")
    assert not [option for option in sorted(options) if option not in shown]


@pytest.mark.long
def test_the_commands_about_formats_run(
    checkout: Path, given_mnist: str | None, mnist: Dataset
) -> None:
    """Each format is written and verified, and read by the other commands."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "saved_models/README.md")]
    sections = [texts[0].partition("## Export and serve\n")[2]]
    sections += [texts[1].partition("## Formats\n")[2].partition("\n## ")[0]]
    found = re.findall(r"^    (keras-digitnet .*)$", "\n".join(sections), re.M)
    commands = list(dict.fromkeys(found))
    assert len(commands) == 5
    cache = checkout / "keras"
    (cache / "datasets").mkdir(parents=True)
    (cache / "datasets" / "mnist.npz").symlink_to(Path(str(given_mnist)).resolve())
    printed = run(["bash", "-euc", "\n".join(commands)], checkout, KERAS_HOME=str(cache))
    assert printed.splitlines()[-1].startswith("7 ")


def test_the_recipe_for_99_percent_runs(checkout: Path) -> None:
    block, _ = python_blocks("scripts/README.md")
    run([sys.executable, "-c", block], checkout)
    (config,) = checkout.glob("runs/*/config.json")
    assert read_json(config)["train"]["model"]["widths"] == [8, 32]


def test_the_callbacks_example_runs(checkout: Path) -> None:
    (block,) = (block for block in python_blocks() if "callbacks=" in block)
    run([sys.executable, "-c", block], checkout)
    with (checkout / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["val_accuracy"]) > 0.5
