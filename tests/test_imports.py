"""The house: which room may import which, and what must not be loaded too early."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "keras_digitnet"

# The table of the README: a room and the rooms that it may import.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "config": {"errors"},
    "artifacts": {"errors"},
    "environment": {"errors"},
    "images": {"errors"},
    "normalization": {"errors", "images"},
    "data": {"errors", "artifacts", "images"},
    "layers": set(),
    "model": {"config", "layers"},
    "evaluation": {"errors"},
    "plots": {"artifacts"},
    "runtimes": {"errors", "artifacts", "environment", "layers", "model"},
    "serving": {"errors", "runtimes"},
    "inference": {
        "errors",
        "config",
        "artifacts",
        "environment",
        "images",
        "normalization",
        "runtimes",
        "serving",
    },
    "reader": {"errors", "artifacts", "images", "normalization", "inference"},
    "demo": {"errors", "environment", "normalization", "inference", "reader"},
    "export": {
        "errors",
        "config",
        "artifacts",
        "environment",
        "data",
        "model",
        "runtimes",
        "inference",
    },
    "training": {
        "errors",
        "config",
        "artifacts",
        "environment",
        "data",
        "model",
        "evaluation",
        "plots",
        "export",
        "inference",
    },
}
ANYTHING = {"__init__", "__main__", "cli"}
LATE_EVERYWHERE = {
    "tensorflow",
    "jax",
    "torch",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "openvino",
    "scipy",
    "sklearn",
    "PIL",
    "cv2",
    "gradio",
    "rich",
}
KERAS_ROOMS = {"layers", "model", "training", "export"}


def imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports, those for the type checker alone left out."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not (top_level_only and isinstance(node, ast.FunctionDef)):
            found |= imports(node, top_level_only)
    return found


def rooms(names: set[str]) -> set[str]:
    ours = {name.split(".")[1] for name in names if name.startswith("keras_digitnet.")}
    return ours & {path.stem for path in PACKAGE.glob("*.py")}


def wrong_arrows(room: str, source: str) -> set[str]:
    return rooms(imports(ast.parse(source))) - ARROWS[room]


def test_every_room_has_its_place_and_keeps_to_its_arrows() -> None:
    sources = {path.stem: path.read_text() for path in PACKAGE.glob("*.py")}
    assert sources.keys() == ARROWS.keys() | ANYTHING
    wrong = {room: wrong_arrows(room, sources[room]) for room in ARROWS}
    assert not {room: arrows for room, arrows in wrong.items() if arrows}


def test_a_wrong_arrow_is_found_wherever_it_hides() -> None:
    source = "def late():\n    if True:\n        from keras_digitnet.training import train\n"
    assert wrong_arrows("data", source) == {"training"}
    assert wrong_arrows("data", "from keras_digitnet import cli, errors") == {"cli"}


def test_the_arrows_have_no_circle() -> None:
    left = dict(ARROWS)
    while left:
        free = {room for room, targets in left.items() if not targets & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in free}


def test_the_readme_shows_these_rooms() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    for room, targets in ARROWS.items():
        (row,) = [line for line in lines if line.startswith(f"| `{room}.py`")]
        assert set(re.findall(r"`(\w+)`", row.split("|")[-2])) == targets, room


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_heavy_packages_are_imported_late(path: Path) -> None:
    at_once = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), True)}
    assert not at_once & LATE_EVERYWHERE
    assert "keras" not in at_once or path.stem in KERAS_ROOMS
    assert "matplotlib" not in at_once or path.stem == "plots"


@pytest.mark.parametrize("program", ["import keras_digitnet", "import keras_digitnet.cli"])
def test_the_package_starts_without_a_heavy_import(program: str) -> None:
    heavy = ["keras", *LATE_EVERYWHERE - {"rich"}, "matplotlib", "numpy"]
    check = f"{program}; import sys; print([n for n in {heavy} if n in sys.modules])"
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert child.stdout.strip() == "[]", child.stderr


def test_every_public_name_is_there() -> None:
    import keras_digitnet as kd

    assert all(getattr(kd, name) is not None for name in kd.__all__)
    assert set(kd.__all__) == set(kd._ROOM_OF)
    with pytest.raises(AttributeError, match="has no attribute 'trane'"):
        kd.trane  # noqa: B018
