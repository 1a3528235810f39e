"""The client of TF Serving, against a small server with the same API."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tf_serving import http_server, tf_serving
from time_limits import at_most, scaled

from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.inference import load
from keras_digitnet.serving import transport


@pytest.fixture(scope="module")
def address(exported: Path) -> Iterator[str]:
    with tf_serving(exported / "digitnet") as address:
        yield address


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", scaled(0.5))
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.01)


def post(url: str, request: Any) -> Any:
    with urllib.request.urlopen(url, json.dumps(request).encode()) as response:
        return json.load(response)


@pytest.mark.parametrize("ending", ["", "/", ":predict", "/versions/1"])
def test_the_client_gives_the_answers_of_the_file(
    address: str, exported: Path, digits: Dataset, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", scaled(30))
    images = digits.test.images[:70]
    served = load(address + ending).predict(images, batch_size=32)
    expected = load(exported / "model.onnx").predict(images)
    assert np.array_equal(served.labels, expected.labels)
    assert np.abs(served.probabilities - expected.probabilities).max() <= 1e-5
    assert load(address).predict(images[:0]).probabilities.shape == (0, 10)


def test_pictures_are_accepted_as_bytes(address: str, digits: Dataset) -> None:
    """The README's request, also with a picture of another size and kind."""
    image = digits.test.images[3, ..., 0]
    contents = []
    for picture, form in (
        (Image.fromarray(image), "PNG"),
        (Image.fromarray(image).convert("RGB"), "PNG"),
        (Image.fromarray(image).resize((280, 280), Image.Resampling.LANCZOS), "JPEG"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, form)
        contents.append(base64.b64encode(buffer.getvalue()).decode())
    request = {
        "signature_name": "image_bytes",
        "instances": [{"b64": content} for content in contents],
    }
    grey, colour, large = post(f"{address}:predict", request)["predictions"]
    expected = load(address).predict(image[None])
    assert [row["label"] for row in (grey, colour, large)] == [expected.labels[0]] * 3
    assert np.allclose(grey["probabilities"], expected.probabilities[0], atol=1e-6)
    assert np.allclose(colour["probabilities"], expected.probabilities[0], atol=1e-6)
    assert np.allclose(large["probabilities"], expected.probabilities[0], atol=0.2)


def test_rows_and_columns(address: str, digits: Dataset) -> None:
    images = digits.test.images[:2]
    rows = post(f"{address}:predict", {"instances": images.tolist()})["predictions"]
    columns = post(f"{address}:predict", {"inputs": {"images": images.tolist()}})["outputs"]
    assert [row["label"] for row in rows] == columns["label"]
    assert [row["probabilities"] for row in rows] == columns["probabilities"]


def metadata(dtype: str = "DT_UINT8", side: int = 28, classes: Any = "10") -> Any:
    def tensor(dtype: str, *sizes: Any) -> Any:
        return {"dtype": dtype, "tensor_shape": {"dim": [{"size": size} for size in sizes]}}

    signature = {
        "inputs": {"images": tensor(dtype, "-1", str(side), str(side), "1")},
        "outputs": {
            "probabilities": tensor("DT_FLOAT", "-1", classes),
            "label": tensor("DT_INT32", "-1"),
        },
    }
    return {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("http://127.0.0.1:9/v1/models/digitnet", r"expected an answer within [\d.]+ s.*refused"),
        ("http://127.0.0.1:9/v1/digitnet", "expected an address like http://localhost:8501"),
        ("http://", "expected an address like"),
        ("http://[::1/v1/models/digitnet", "expected an address like"),
        ("http://a..b/v1/models/digitnet", "expected an address like"),
        ("http://lo calhost/v1/models/digitnet", "expected an address like"),
        ("http://localhost/v1/models/digitnet?x=1", "expected an address like"),
        ("HTTP://localhost", "expected an address like"),
        ("http://localhost:port/v1/models/digitnet", "expected an address like"),
        ("http://localhost/v1/models/mod\u00e8le", "expected an address like"),
    ],
)
def test_a_server_that_is_down_is_one_message(where: str, message: str) -> None:
    with pytest.raises(DigitNetError, match=message) as caught:
        load(where)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_served(address: str) -> None:
    other = address.replace("digitnet", "numbernet")
    with pytest.raises(DigitNetError, match=r"404, Servable not found for request: Latest\(numb"):
        load(other)
    with pytest.raises(DigitNetError, match="404, Servable not found"):
        load(f"{address}/versions/7")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>hello</html>"), "expected JSON; received: b'<html>"),
        ((200, {"metadata": {}}), "expected the metadata of a model with serving_default"),
        ((200, [1]), "expected the metadata of a model with serving_default"),
        ((200, metadata(side=32)), r"received: from images \(N, 32, 32, 1\) uint8"),
        (
            (200, metadata(classes="20000000")),
            "expected at most 10,000 classes; received: 20,000,000",
        ),
        ((200, metadata(classes=1e999)), "expected the metadata of a model"),
        ((200, metadata("DT_FLOAT")), r"received: from images \(N, 28, 28, 1\) float32"),
        ((500, {"error": "out of\nmemory"}), "received: status 500, out of memory"),
        ((500, b"oops"), "received: status 500, b'oops'"),
    ],
)
def test_another_model_or_no_model_is_one_message(answer: Any, message: str) -> None:
    with (
        http_server(lambda *_: answer) as server,
        pytest.raises(DigitNetError, match=message) as caught,
    ):
        load(f"{server}/v1/models/digitnet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "outputs",
    [
        {"outputs": {"probabilities": [[1.0]], "label": [0]}},
        {"outputs": {"probabilities": [["a"] * 10], "label": [0]}},
        {"outputs": {"probabilities": [[0.1] * 10] * 2, "label": [0, 0]}},
        {"outputs": {"probabilities": [[0.1] * 10], "label": [57]}},
        {"outputs": {"probabilities": [[0.1] * 10], "label": [-1]}},
        {"outputs": {"probabilities": [[0.1] * 10], "label": [1.5]}},
        {"outputs": {"probabilities": [[float("nan")] * 10], "label": [1]}},
        {"outputs": {"probabilities": [[0.2] * 10], "label": [1]}},
        {"outputs": {"probabilities": [[1.5, -0.5, *[0.0] * 8]], "label": [0]}},
        {"outputs": {"probabilities": [[float("inf"), float("-inf"), *[0.0] * 8]], "label": [0]}},
        {"outputs": {"probabilities": [[3e38] * 10], "label": [0]}},
        {"predictions": []},
        [],
    ],
)
def test_an_answer_of_another_shape_is_one_message(outputs: Any) -> None:
    def answer(method: str, path: str, body: bytes) -> tuple[int, Any]:
        return 200, metadata() if method == "GET" else outputs

    with http_server(answer) as server:
        classifier = load(f"{server}/v1/models/digitnet")
        with pytest.raises(DigitNetError, match=r"models/digitnet: expected .*received: "):
            classifier.predict(np.zeros((1, 28, 28), np.uint8))


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_gets_three_tries(code: int) -> None:
    tries = []

    def answer(*_: object) -> tuple[int, Any]:
        tries.append(time.monotonic())
        return (code, {"error": "busy"}) if len(tries) < 3 else (200, metadata())

    with http_server(answer) as server:
        load(f"{server}/v1/models/digitnet")
    assert len(tries) == 3


def test_a_server_that_stays_busy_is_one_message() -> None:
    tries = []

    def answer(*_: object) -> tuple[int, Any]:
        tries.append(1)
        return 503, {"error": "busy"}

    with (
        http_server(answer) as server,
        pytest.raises(DigitNetError, match=r"received: status 503, busy \(3 tries\)"),
    ):
        load(f"{server}/v1/models/digitnet")
    assert len(tries) == 3


def test_a_slow_server_does_not_block_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TRIES", 2)

    def answer(*_: object) -> tuple[int, Any]:
        time.sleep(2 * transport.TIMEOUT_SECONDS)
        return 200, metadata()

    with (
        http_server(answer) as server,
        at_most(10 * transport.TIMEOUT_SECONDS),
        pytest.raises(
            DigitNetError,
            match=r"within [\d.]+ s; received: (timed out|no answer in time) \(2 tries\)",
        ),
    ):
        load(f"{server}/v1/models/digitnet")


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 503 Busy\r\n\r\n"],
    ids=["status", "body", "error"],
)
def test_a_server_that_sends_slowly_does_not_block_the_client(
    beginning: bytes, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends each byte in time but never finishes."""
    monkeypatch.setattr(transport, "TRIES", 2)
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(beginning)
            while not done.wait(transport.TIMEOUT_SECONDS / 5):
                connection.sendall(b"H")

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        message = r"within [\d.]+ s; received: .* \(2 tries\)"
        with at_most(10 * transport.TIMEOUT_SECONDS), pytest.raises(DigitNetError, match=message):
            load(f"http://127.0.0.1:{listener.getsockname()[1]}/{protocol}/models/digitnet")
        done.set()


def test_an_answer_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_MAX_BYTES", 1000)
    with (
        http_server(lambda *_: (200, b"x" * 2000)) as server,
        pytest.raises(DigitNetError, match="expected at most 1,000 bytes"),
    ):
        load(f"{server}/v1/models/digitnet")
