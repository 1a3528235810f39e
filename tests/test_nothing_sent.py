"""Nothing is sent: no runtime sends usage statistics or stores an identifier.

Each program has a new home folder, and an environment in which a runtime cannot detect the test.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.fresh

PREDICT = """
import sys
import numpy as np
import keras_digitnet as kd

def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print(event, arguments)

sys.addaudithook(tell)
for where in sys.argv[1:]:
    kd.load(where).predict(np.zeros((1, 28, 28), np.uint8))
"""
# Serves a page, sends one request, and keeps running until ONNX Runtime would report.
SERVE = """
import os, signal, socket, threading, time, urllib.request
from keras_digitnet.cli import app

def ask():
    while True:
        time.sleep(0.1)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}").read()
            break
        except OSError:
            pass
    time.sleep(15)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(300)
    os._exit(1)  # must not outlive the test

# A shell that runs the tests in the background makes them and their children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

with socket.create_server(("127.0.0.1", 0)) as found:
    port = found.getsockname()[1]
threading.Thread(target=ask, daemon=True).start()
try:
    app(["demo", "--port", str(port)])
except SystemExit as end:
    print("ended with", end.code)
"""
FORMS = {
    "Keras": "model.keras",
    "SavedModel": "digitnet",
    "ONNX Runtime": "model.onnx",
    "LiteRT": "model.tflite",
    "OpenVINO": "model.xml",
}
# Keras keeps its settings, and matplotlib, which it imports, its list of fonts.
KEPT_BY_KERAS = (".keras/keras.json", ".config/matplotlib", ".cache/matplotlib/")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    kept = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return kept | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def models(trained: Path, exported: Path) -> dict[str, Path]:
    return {form: (trained if form == "Keras" else exported) / FORMS[form] for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_a_runtime_writes_no_files_and_resolves_no_host(
    form: str, models: dict[str, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    child = subprocess.run(
        [sys.executable, "-c", PREDICT, str(models[form])],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (child.returncode, child.stdout) == (0, ""), child.stderr
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    kept = KEPT_BY_KERAS if form in ("Keras", "SavedModel") else ()
    assert [
        path for path in left if not path.startswith(tuple(f"home/{name}" for name in kept))
    ] == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: apt install strace")
def test_the_process_opens_no_connection(
    models: dict[str, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    """Including native code, which Python hooks cannot see."""
    calls = tmp_path / "calls"
    strace = ["strace", "-f", "--seccomp-bpf", "-e", "connect,sendto,sendmsg,sendmmsg", "-o", calls]
    child = subprocess.run(
        [*strace, sys.executable, "-c", PREDICT + SERVE, *models.values()],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "ended with 130" in child.stdout, child.stderr
    asked = re.findall(r'(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"', calls.read_text())
    assert set(asked) == {"127.0.0.1"}  # by the test itself


@pytest.mark.parametrize(
    ("consent", "reports"), [(None, "False"), ("0", "False"), ("1\n", "True")], ids=str
)
def test_telemetry_that_the_user_has_enabled_stays(
    consent: str | None, reports: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Uses a fake OpenVINO that prints whether it would report, since tests send nothing."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "openvino_telemetry.py").touch()
    (packages / "openvino.py").write_text(
        "reports = True\ntry:\n    import openvino_telemetry\n"
        "except ImportError:\n    reports = False\n"
    )
    if consent is not None:
        (Path(environment["HOME"]) / "intel").mkdir()
        (Path(environment["HOME"]) / "intel" / "openvino_telemetry").write_text(consent)
    program = (
        "import os\n"
        "from keras_digitnet.environment import import_extra\n"
        "print(import_extra('openvino', 'openvino').reports)\n"
        "import openvino_telemetry\n"  # for whoever else needs it
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    changed = {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "ORT_DISABLE_TELEMETRY": "0"}
    child = subprocess.run(
        [sys.executable, "-c", program], env=environment | changed, capture_output=True, text=True
    )
    assert child.stdout.split() == [reports, "0"], child.stderr


def test_runtimes_are_imported_in_one_place() -> None:
    """All imports go through `environment.import_runtime`, which turns telemetry off."""
    folders = ("keras_digitnet", "scripts", "tests")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        statement = re.search(r"^\s*(import|from) (onnxruntime|openvino)\b.*", text, re.M)
        off = statement and "ORT_DISABLE_TELEMETRY" in text[: statement.start()]
        assert statement is None or off, f"{path}: {statement}"
