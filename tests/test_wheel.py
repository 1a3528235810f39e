"""The wheel, in an environment without the checkout."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

from keras_digitnet.config import PRESETS
from keras_digitnet.data import Dataset
from keras_digitnet.reading.inference import load


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.iterdir()
    return path


def test_the_wheel_contains_only_the_package_and_the_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        sizes = [member.file_size for member in archive.infolist()]
    package = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "demo/*.html", "demo/examples/*.jpg")
        for path in (ROOT / "keras_digitnet").rglob(pattern)
    }
    models = {
        f"keras_digitnet/{path.relative_to(ROOT)}"
        for path in (ROOT / "saved_models").rglob("*")
        if path.is_file()
    }
    assert names == package | models | {"keras_digitnet/py.typed"}
    for preset in PRESETS:
        for name in ("model.keras", "model.onnx", "config.json", "metrics.json", "README.md"):
            assert f"keras_digitnet/saved_models/{preset}/{name}" in models
    assert {"keras_digitnet/demo/page.html", "keras_digitnet/demo/examples/cheque.jpg"} <= package
    assert "keras_digitnet/saved_models/base/digitnet/1/saved_model.pb" in models
    assert max(sizes) < 3_000_000


def test_the_wheel_predicts_in_a_fresh_environment(
    wheel: Path, tmp_path: Path, digits: Dataset
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site_packages = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    install = [*pip, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # Uses the dependencies of the tests' environment, but not its copy of the package.
    (site_packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for index in range(3):
        Image.fromarray(digits.test.images[index, ..., 0]).save(tmp_path / f"{index}.png")
    program = (
        "import keras_digitnet as kd, numpy as np\n"
        "print(kd.__file__)\n"
        "for name in ('nano', 'small', 'base'):\n"
        "    print(kd.load(name).predict(np.zeros((2, 28, 28), np.uint8)).labels.shape)\n"
        "print(kd.load('reader').find(np.zeros((40, 90), np.uint8)))\n"
    )
    shown = subprocess.run(
        [python, "-c", program],
        cwd=tmp_path,
        env={},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert shown[0].startswith(str(site_packages))
    assert shown[1:] == ["(2,)"] * 3 + ["[]"]
    command = [python.with_name("keras-digitnet"), "predict", "0.png", "1.png", "2.png"]
    lines = subprocess.run(
        command, cwd=tmp_path, env={}, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = load(ROOT / "saved_models" / "base" / "model.onnx").predict(digits.test.images[:3])
    assert [int(line.split()[0]) for line in lines] == list(expected.labels)
