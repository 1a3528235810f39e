"""The imports that modules may have, and packages that must be imported late."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "keras_digitnet"

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
    "fastapi",
    "pydantic",
    "ray",
    "rich",
    "starlette",
    "uvicorn",
}
# Imported late themselves.
WEB_MODULES = {"demo.app": {"fastapi", "pydantic", "starlette"}, "demo.uploads": {"starlette"}}
KERAS_MODULES = {"layers", "networks", "distribution", "training", "export"}


def imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports, without those for the type checker only."""
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


def module_of(path: Path) -> str:
    """The dotted name of a file: `data.idx`; a package's `__init__.py` is `data`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


PATHS = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def modules(names: set[str]) -> set[str]:
    """The innermost modules of dotted names."""
    found = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("keras_digitnet.") else []
        places = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        found |= {next((place for place in places if place in PATHS), "")} - {""}
    return found


def readme_imports() -> dict[str, set[str]]:
    """The table of the package's README: each module and its allowed imports."""
    by_name = {str(path.relative_to(PACKAGE)): module for module, path in PATHS.items()}
    rows = re.findall(
        r"^\| `([\w/]+\.py)` \|.*\| ([^|]*) \|$", (PACKAGE / "README.md").read_text(), re.M
    )
    return {by_name[name]: set(re.findall(r"`([\w.]+)`", imported)) for name, imported in rows}


ALLOWED = {
    module: targets for module, targets in readme_imports().items() if module not in ANYTHING
}


def unlisted_imports(module: str, source: str) -> set[str]:
    return modules(imports(ast.parse(source))) - ALLOWED[module]


def test_every_module_has_a_row_with_its_exact_imports() -> None:
    sources = {module: path.read_text() for module, path in PATHS.items()}
    assert sources.keys() == ALLOWED.keys() | ANYTHING
    found = {module: modules(imports(ast.parse(sources[module]))) for module in ALLOWED}
    assert found == ALLOWED


def test_a_forbidden_import_is_found_anywhere() -> None:
    source = "def late():\n    if True:\n        from keras_digitnet.training import train\n"
    assert unlisted_imports("data", source) == {"training"}
    assert unlisted_imports("data", "from keras_digitnet import cli, errors") == {"cli", "errors"}
    assert unlisted_imports("data.files", "from keras_digitnet.data import idx, Split") == {
        "data.idx",
        "data",
    }


def test_a_module_imports_only_rows_above_its_own() -> None:
    above: set[str] = set()
    for module, targets in ALLOWED.items():
        assert targets <= above, f"{module} imports {targets - above}, which stand below it"
        above.add(module)


@pytest.mark.parametrize("module", PATHS)
def test_heavy_packages_are_imported_late(module: str) -> None:
    at_once = {name.split(".")[0] for name in imports(ast.parse(PATHS[module].read_text()), True)}
    assert at_once & LATE_EVERYWHERE == WEB_MODULES.get(module, set())
    assert "keras" not in at_once or module.split(".")[0] in KERAS_MODULES
    assert "matplotlib" not in at_once or module == "plots"


@pytest.mark.parametrize("program", ["import keras_digitnet", "import keras_digitnet.cli"])
def test_the_package_starts_without_a_heavy_import(program: str) -> None:
    heavy = ["keras", *LATE_EVERYWHERE - {"rich"}, "matplotlib", "numpy"]
    check = f"{program}; import sys; print([n for n in {heavy} if n in sys.modules])"
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert child.stdout.strip() == "[]", child.stderr


def test_every_public_name_exists() -> None:
    import keras_digitnet as kd

    assert all(getattr(kd, name) is not None for name in kd.__all__)
    assert set(kd.__all__) == set(kd._MODULE_OF)
    with pytest.raises(AttributeError, match="has no attribute 'trane'"):
        kd.trane  # noqa: B018
