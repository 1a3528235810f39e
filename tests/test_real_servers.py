"""The client of the Open Inference (V2) protocol, against real Triton and MLServer servers.

./scripts/serving_env.sh installs both; without them these tests are skipped.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from time_limits import scaled
from v2_server import local

from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import read_grey
from keras_digitnet.reading.inference import load
from keras_digitnet.serving import open_inference, transport

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keras_digitnet"
TRITON = CACHE / "triton" / "bin" / "tritonserver"
MLSERVER = CACHE / "mlserver" / "bin" / "mlserver"
MODELS = ROOT / "saved_models"

pytestmark = [
    pytest.mark.servers,
    pytest.mark.xdist_group("servers"),
    pytest.mark.skipif(
        not (TRITON.is_file() and MLSERVER.is_file()),
        reason=f"needs Triton and MLServer in {CACHE}: ./scripts/serving_env.sh",
    ),
]


@contextlib.contextmanager
def running(log: Path, port: int, *command: object, **environment: object) -> Iterator[str]:
    """A server, once it is ready."""
    url = f"http://127.0.0.1:{port}"
    settings = {name: str(value) for name, value in environment.items()}
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | settings,
            cwd=log.parent,
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + scaled(60)
        while not is_ready(url):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(scaled(30))
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Triton with the models of scripts/triton-server/, and a classifier without batching."""
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    for name, preset in (("digitnet", "base"), ("unbatched", "base"), ("reader", "reader")):
        (repository / name / "1").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "triton-server" / "model.py", repository / name / "1")
        shutil.copy(MODELS / preset / "model.onnx", repository / name / "1" / "network.onnx")
        if name != "unbatched":
            config = ROOT / "scripts" / "triton-server" / name / "config.pbtxt"
            shutil.copy(config, repository / name)
    (repository / "unbatched" / "config.pbtxt").write_text(
        'name: "unbatched"\n'
        'input [ { name: "images", data_type: TYPE_UINT8, dims: [ -1, 28, 28, 1 ] } ]\n'
        'output [ { name: "probabilities", data_type: TYPE_FP32, dims: [ -1, 10 ] },\n'
        '  { name: "label", data_type: TYPE_INT32, dims: [ -1 ] } ]\n'
    )
    http_port, grpc_port = free_ports(2)
    ports = [f"--http-port={http_port}", f"--grpc-port={grpc_port}"]
    command = [TRITON, f"--model-repository={repository}", *ports]
    with running(folder / "log", http_port, *command) as url:
        yield url


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLServer with the model of scripts/mlserver/."""
    folder = tmp_path_factory.mktemp("mlserver")
    for name in ("digitnet_runtime.py", "settings.json"):
        shutil.copy(ROOT / "scripts" / "mlserver" / name, folder)
    settings = json.loads((ROOT / "scripts" / "mlserver" / "model-settings.json").read_text())
    for name, preset in (("digitnet", "base"), ("reader", "reader")):
        (folder / name).mkdir()
        parameters = {"uri": str(MODELS / preset / "model.onnx")}
        text = json.dumps(settings | {"name": name, "parameters": parameters})
        (folder / name / "model-settings.json").write_text(text)
    http_port, grpc_port, metrics_port = free_ports(3)
    with running(
        folder / "log",
        http_port,
        MLSERVER,
        "start",
        folder,
        MLSERVER_HTTP_PORT=http_port,
        MLSERVER_GRPC_PORT=grpc_port,
        MLSERVER_METRICS_PORT=metrics_port,
    ) as url:
        yield url


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", scaled(10))


def agrees(address: str, digits: Dataset) -> None:
    images = digits.test.images[:70]
    expected = local("base").predict(images)
    served = load(address).predict(images, batch_size=32)
    assert np.array_equal(served.labels, expected.labels)
    assert np.abs(served.probabilities - expected.probabilities).max() <= 1e-6


def reads(address: str) -> None:
    grey = read_grey(ROOT / "scripts" / "seven.png")
    expected = local("reader").find(grey)
    found = load(address).find(grey)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.box, other.box, atol=1e-3)
        assert np.allclose(one.probabilities, other.probabilities, atol=1e-6)


@pytest.mark.parametrize("model", ["digitnet", "digitnet/versions/1", "unbatched"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_triton_gives_the_answers_of_the_file(
    model: str, binary: bool, triton: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = open_inference.supports_binary
    monkeypatch.setattr(open_inference, "supports_binary", lambda s: offered(s) and binary)
    assert offered(transport.Server(f"{triton}/v2/models/{model}"))
    agrees(f"{triton}/v2/models/{model}", digits)


def test_triton_reads_pages(triton: str) -> None:
    reads(f"{triton}/v2/models/reader")


def test_an_error_of_triton_is_one_message(triton: str) -> None:
    with pytest.raises(DigitNetError, match="unknown model: 'numbernet' is not found"):
        load(f"{triton}/v2/models/numbernet")
    with pytest.raises(DigitNetError, match="version 7"):
        load(f"{triton}/v2/models/digitnet/versions/7")
    with pytest.raises(DigitNetError, match="batch-size must be <= 256"):
        load(f"{triton}/v2/models/digitnet").predict(np.zeros((300, 28, 28), np.uint8), 300)


def test_mlserver_gives_the_answers_of_the_file(mlserver: str, digits: Dataset) -> None:
    address = f"{mlserver}/v2/models/digitnet"
    assert not open_inference.supports_binary(transport.Server(address))
    agrees(address, digits)
    reads(f"{mlserver}/v2/models/reader")
    with pytest.raises(DigitNetError, match="Model numbernet not found"):
        load(f"{mlserver}/v2/models/numbernet")


def test_the_command_line_asks_a_server(triton: str, command: object) -> None:
    where = f"{triton}/v2/models/reader"
    done = command("read", ROOT / "scripts" / "seven.png", "--model", where)  # type: ignore[operator]
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
