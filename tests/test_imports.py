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
    "picture_files": set(),
    "images": {"errors", "picture_files"},
    "normalization": {"errors", "images"},
    "data.splits": {"errors"},
    "data.files": {"artifacts", "picture_files"},
    "data.pictures": {"errors", "images", "normalization"},
    "data.emnist": {"errors"},
    "data.idx": {"errors", "data.emnist", "data.files", "data.splits"},
    "data.npz": {"errors", "data.files", "data.splits"},
    "data.csv_files": {"errors", "images", "data.files"},
    "data.parquet": {
        "errors",
        "environment",
        "images",
        "data.csv_files",
        "data.files",
        "data.pictures",
    },
    "data.tables": {
        "errors",
        "data.csv_files",
        "data.emnist",
        "data.files",
        "data.parquet",
        "data.pictures",
        "data.splits",
    },
    "data.class_folders": {
        "errors",
        "picture_files",
        "data.files",
        "data.pictures",
        "data.splits",
    },
    "data.layouts": {
        "errors",
        "data.class_folders",
        "data.files",
        "data.idx",
        "data.npz",
        "data.splits",
        "data.tables",
    },
    "data.downloads": {"errors", "artifacts"},
    "data.named": {"images", "data.downloads", "data.idx", "data.npz", "data.splits"},
    "data.checks": {"errors", "images", "normalization", "data.files", "data.splits"},
    "data.loading": {
        "errors",
        "artifacts",
        "data.checks",
        "data.downloads",
        "data.files",
        "data.layouts",
        "data.named",
        "data.splits",
    },
    "data": {"data.loading", "data.splits"},
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
    "pyarrow",
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


def room_of(path: Path) -> str:
    """A file's name with dots: `data.idx`; a folder's own is that of the folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


PATHS = {room_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def rooms(names: set[str]) -> set[str]:
    """The modules that dotted names lie in, each the innermost one."""
    found = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("keras_digitnet.") else []
        places = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        found |= {next((place for place in places if place in PATHS), "")} - {""}
    return found


def wrong_arrows(room: str, source: str) -> set[str]:
    return rooms(imports(ast.parse(source))) - ARROWS[room]


def test_every_room_has_its_place_and_keeps_to_its_arrows() -> None:
    sources = {room: path.read_text() for room, path in PATHS.items()}
    assert sources.keys() == ARROWS.keys() | ANYTHING
    wrong = {room: wrong_arrows(room, sources[room]) for room in ARROWS}
    assert not {room: arrows for room, arrows in wrong.items() if arrows}


def test_a_wrong_arrow_is_found_wherever_it_hides() -> None:
    source = "def late():\n    if True:\n        from keras_digitnet.training import train\n"
    assert wrong_arrows("data", source) == {"training"}
    assert wrong_arrows("data", "from keras_digitnet import cli, errors") == {"cli", "errors"}
    assert wrong_arrows("data.files", "from keras_digitnet.data import idx, Split") == {
        "data.idx",
        "data",
    }


def test_the_arrows_have_no_circle() -> None:
    left = dict(ARROWS)
    while left:
        free = {room for room, targets in left.items() if not targets & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in free}


def test_the_readme_shows_these_rooms() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    for room, targets in ARROWS.items():
        shown = PATHS[room].relative_to(PACKAGE)
        (row,) = [line for line in lines if line.startswith(f"| `{shown}`")]
        assert set(re.findall(r"`([\w.]+)`", row.split("|")[-2])) == targets, room


@pytest.mark.parametrize("room", PATHS)
def test_heavy_packages_are_imported_late(room: str) -> None:
    at_once = {name.split(".")[0] for name in imports(ast.parse(PATHS[room].read_text()), True)}
    assert not at_once & LATE_EVERYWHERE
    assert "keras" not in at_once or room in KERAS_ROOMS
    assert "matplotlib" not in at_once or room == "plots"


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
