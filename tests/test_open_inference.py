"""The client of the Open Inference (V2) protocol, against a small server."""

import base64
import json
import pickle
from collections.abc import Callable
from email.message import Message
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from conftest import ROOT
from tf_serving import Raw, http_server
from time_limits import scaled
from v2_server import JSON_LENGTH, Outputs, encoded, local, v2_server

from keras_digitnet.data import Dataset
from keras_digitnet.errors import DigitNetError, without_credentials
from keras_digitnet.pictures.decoding import read_grey
from keras_digitnet.reading.inference import find_keras_file, load, load_classifier
from keras_digitnet.serving import require_address, transport
from keras_digitnet.serving.transport import AUTHORIZATION

MODEL = "/v2/models/digitnet"
ROW = {"probabilities": np.full((1, 10), 0.1, np.float32), "label": np.zeros(1, np.int32)}


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", scaled(30))
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.01)


def in_columns(dtype: type) -> Callable[[Outputs], Outputs]:
    return lambda outputs: {**outputs, "label": outputs["label"][:, None].astype(dtype)}


def in_a_row(dtype: type) -> Callable[[Outputs], Outputs]:
    return lambda outputs: {**outputs, "label": outputs["label"].astype(dtype)}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "empty"])
@pytest.mark.parametrize("change", [in_columns, in_a_row])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_served_classifier_gives_the_answers_of_the_file(
    binary: bool, metadata: bool, change: Any, dtype: type, digits: Dataset
) -> None:
    images = digits.test.images[:5]
    expected = local("nano").predict(images)
    with v2_server(binary=binary, metadata=metadata, change=change(dtype)) as (address, server):
        answers = load(address).predict(images, batch_size=3)
        assert server.paths == [MODEL, "/v2", *[f"{MODEL}/infer"] * 3]
    assert np.array_equal(answers.labels, expected.labels)
    assert np.abs(answers.probabilities - expected.probabilities).max() <= 1e-6


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "empty"])
def test_a_served_reader_finds_the_same_as_the_file(binary: bool, metadata: bool) -> None:
    grey = read_grey(ROOT / "scripts" / "seven.png")
    expected = local("reader").find(grey)
    with v2_server(model="reader", binary=binary, metadata=metadata) as (address, _):
        found = load(address).find(grey)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.box, other.box, atol=1e-3)
        assert np.allclose(one.probabilities, other.probabilities, atol=1e-6)


@pytest.mark.parametrize("ending", ["/", "/infer", "/versions/1", "/versions/1/infer"])
def test_the_forms_of_an_address(ending: str) -> None:
    with v2_server() as (address, _):
        load(address + ending)


def test_a_name_that_is_not_served() -> None:
    with v2_server() as (address, _):
        for other in (address.replace("digitnet", "numbernet"), f"{address}/versions/7"):
            with pytest.raises(DigitNetError, match="status 404, Request for unknown model"):
                load(other)


def test_a_gateway_that_hides_the_server_gets_json() -> None:
    with v2_server(binary=False) as (_, v2):

        def answer(method: str, path: str, body: bytes) -> Any:
            return (403, b"") if path == "/v2" else v2(method, path, body)

        with http_server(answer, v2.received) as server:
            assert load(server + MODEL).predict(np.zeros((2, 28, 28), np.uint8)).labels.shape == (
                2,
            )


# Invalid answers


def served(metadata: Any, answers: Any, extensions: Any = ("binary_tensor_data",)) -> Any:
    """A server of fixed answers; those to `infer` are given in order, the last one repeatedly."""
    left = list(answers)

    def answer(method: str, path: str, body: bytes) -> Any:
        if path == "/v2":
            return 200, {"extensions": extensions}
        if method == "GET":
            return 200, metadata
        reply = left.pop(0) if len(left) > 1 else left[0]
        return reply if isinstance(reply, tuple) else (200, reply)

    return http_server(answer)


def inputs(datatype: Any = "UINT8", shape: Any = (-1, 28, 28, 1), name: Any = "images") -> Any:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape}]}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (inputs(shape=(-1, 32, 32, 1)), r"received: from images \(N, 32, 32, 1\) uint8"),
        (inputs("FP32"), r"received: from images \(N, 28, 28, 1\) float32"),
        (inputs("BYTES", [-1]), r"received: from images \(N\) BYTES"),
        (inputs(name="input_1"), r"received: from input_1 \(N"),
        (inputs(shape=None), "expected the metadata of a model; received"),
        (inputs(shape=[1e999]), "expected the metadata of a model; received"),
        (inputs([1]), "expected the metadata of a model; received"),
        ({"inputs": 7}, "expected the metadata of a model; received"),
        ([1], "expected the metadata of a model; received"),
        (b"<html>hello</html>", "expected JSON; received: b'<html>"),
    ],
)
def test_another_model_or_no_model_is_one_message(metadata: Any, message: str) -> None:
    with (
        served(metadata, [encoded(ROW, True)]) as server,
        pytest.raises(DigitNetError, match=message) as caught,
    ):
        load(server + MODEL)
    assert "\n" not in str(caught.value)


def outputs(**changes: Any) -> Any:
    """A JSON answer for one image with a changed label."""
    answer = encoded(ROW, False)
    answer["outputs"][1] |= changes
    return answer


def raw(content: bytes, length: Any, *sizes: Any) -> Raw:
    """A binary answer with these bytes, header and output sizes."""
    answer = encoded(ROW, True)
    header = json.loads(answer.content[: int(answer.headers[JSON_LENGTH])])
    for output, size in zip(header["outputs"], sizes, strict=False):
        output["parameters"] = {"binary_data_size": size}
    text = json.dumps(header).encode()
    return Raw(text + content, {JSON_LENGTH: str(len(text) if length is None else length)})


NO_ANSWERS = {
    "another dtype": encoded({**ROW, "probabilities": ROW["probabilities"].astype(float)}, True),
    "labels that are no integers": encoded({**ROW, "label": np.zeros(1, np.float32)}, True),
    "one row too many": encoded({name: np.repeat(a, 2, 0) for name, a in ROW.items()}, True),
    "a label in a cube": encoded({**ROW, "label": np.zeros((1, 1, 1), np.int32)}, True),
    "no classes": encoded({**ROW, "probabilities": np.ones((1, 0), "f")}, True),
    "a label out of range": outputs(data=[57]),
    "a fraction of a label": outputs(data=[1.5]),
    "a label that is text": outputs(data=["7"]),
    "no number of labels": outputs(data=None),
    "more labels than the shape": outputs(data=[1, 2]),
    "an open shape": outputs(shape=[-1]),
    "no shape": outputs(shape=None),
    "a shape beyond all memory": outputs(shape=[1 << 60]),
    "an unknown datatype": outputs(datatype="INT4"),
    "a datatype that is none": outputs(datatype=[1]),
    "a name that is none": outputs(name=7),
    "no label": {"outputs": outputs()["outputs"][:1]},
    "outputs that are none": {"outputs": 7},
    "outputs of nothing": {"outputs": []},
    "no outputs": {},
    "a list": [1],
    "no probabilities": encoded({**ROW, "probabilities": np.full((1, 10), np.nan, "f")}, True),
    "too few bytes": raw(b"\0" * 43, None),
    "no bytes": raw(b"", None),
    "a size that is not the shape's": raw(b"\0" * 44, None, 36, 8),
    "a size that is none": raw(b"\0" * 44, None, "40"),
    "a size below nothing": raw(b"\0" * 44, None, -4),
    "a length that is none": raw(b"\0" * 44, "many"),
    "a length below nothing": raw(b"\0" * 44, -44),
    "too short a length": raw(b"\0" * 44, 7),
    "no JSON": b"\x00\xff\xfe",
    "an error": (400, {"error": "[request id: <id_unknown>] batch-size\nmust be <= 256"}),
    "a failure": (500, b"oops"),
}


@pytest.mark.parametrize("first", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_an_invalid_answer_is_one_message(kind: str, first: bool) -> None:
    answers = [NO_ANSWERS[kind]] if first else [encoded(ROW, True), NO_ANSWERS[kind]]
    with (
        served(inputs(), answers) as server,
        pytest.raises(DigitNetError, match=r"models/digitnet.*: expected .*received: ") as caught,
    ):
        load(server + MODEL).predict(np.zeros((1, 28, 28), np.uint8))
    assert "\n" not in str(caught.value)


def test_a_busy_server_gets_three_tries() -> None:
    busy = (503, {"error": "busy"})
    with served(inputs(), [busy, busy, encoded(ROW, True)]) as server:
        load(server + MODEL)
    with (
        served(inputs(), [busy]) as server,
        pytest.raises(DigitNetError, match=r"received: status 503, busy \(3 tries\)"),
    ):
        load(server + MODEL)


# Credentials


SECRET = "s@cr\u00e9t/7:8"
BASIC = f"Basic {base64.b64encode(f'ada:{SECRET}'.encode()).decode()}"


def with_credentials(address: str) -> str:
    return address.replace("://", f"://ada:{quote(SECRET, safe='')}@")


def is_hidden(text: object) -> bool:
    return not any(part in str(text) for part in ("s%40cr", "s@cr", SECRET, BASIC.split()[1]))


def test_credentials_of_an_address_are_sent_and_are_in_no_name() -> None:
    with v2_server() as (address, server):
        model = load(with_credentials(address))
        assert [headers["Authorization"] for headers in server.received] == [BASIC] * 3
    with pytest.raises(DigitNetError, match="Load it in the worker") as caught:
        pickle.dumps(model)
    assert address in str(caught.value)
    assert is_hidden(caught.value)
    assert is_hidden(repr(require_address(with_credentials(address))))


@pytest.mark.parametrize("path", [MODEL, "/v1/models/digitnet"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [(401, f"in {AUTHORIZATION}"), (403, "no: "), (500, "no: "), (503, "3 tries"), (200, "no: ")],
)
def test_credentials_that_a_server_echoes_are_hidden(path: str, code: int, expected: str) -> None:
    received: list[Message] = []

    def answer(*_: object) -> Any:
        return code, {"error": f"no: {received[-1]['Authorization']}, {SECRET}"}

    def text(*_: object) -> Any:
        return code, f"no: {received[-1]['Authorization']}, {SECRET}".encode()

    for reply in (answer, text):
        with (
            http_server(reply, received) as server,
            pytest.raises(DigitNetError, match=f"no: .*Basic \\*\\*\\*.*|{expected}") as caught,
        ):
            load(with_credentials(server + path))
        assert expected in str(caught.value)
        assert is_hidden(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "http://ada:{}@localhost/v3/models/digitnet",
        "http://ada:{}@local host/v2/models/digitnet",
        "http://ada:{}@localhost:0/v2/models/digitnet",
        "http://ada:s@cr/et@localhost/v2/models/digitnet",
        "http:/ada:{}@localhost/v2/models/digitnet",
        "htp://ada:{}@localhost/v2/models/digitnet",
        "ada:{}@localhost/v2/models/digitnet",
        "https://{}@",
    ],
)
def test_credentials_of_a_mistaken_address_are_hidden(where: str) -> None:
    with pytest.raises(DigitNetError, match="received: .*\\*\\*\\*@") as caught:
        load(where.format(quote(SECRET, safe="")))
    assert is_hidden(caught.value)


def test_no_other_message_shows_credentials() -> None:
    with v2_server(model="reader") as (address, _):
        secret = with_credentials(address)
        for mistake in (
            lambda: load(secret, backend="jax"),
            lambda: find_keras_file(secret),
            lambda: load_classifier(secret),
        ):
            with pytest.raises(DigitNetError, match="received: ") as caught:
                mistake()
            assert is_hidden(caught.value)
    with pytest.raises(DigitNetError, match="refused") as caught:
        load(with_credentials(f"http://127.0.0.1:9{MODEL}"))
    assert is_hidden(caught.value)


def test_a_path_is_printed_unchanged() -> None:
    for path in ("runs/a:b@c/model.keras", "base", "~/me@home/model.onnx"):
        assert without_credentials(path) == path


@pytest.mark.parametrize(
    "address",
    [
        "my-user:t0ken@host:8501/v1/models/x",
        "http//me:t0ken@host/v1/models/x",
        "grpc+tls://me:t0ken@host/x",
        '"http://me:t0ken@host/x"',
        "http://host/v1/models/x?a=t0ken&b=t0ken",
    ],
)
def test_a_mistyped_address_hides_its_credentials_too(address: str) -> None:
    assert "t0ken" not in without_credentials(address)


def test_the_command_line_prints_no_credentials(command: Any) -> None:
    with v2_server() as (address, server):
        done = command("evaluate", with_credentials(address), "--data", "digits", "--json")
        assert server.received[0]["Authorization"] == BASIC
    host = address.removeprefix("http://")
    assert json.loads(done.stdout)["models"] == [f"http://***@{host}"]
    assert is_hidden(done.stdout + done.stderr)


def test_authorization_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTHORIZATION, " Bearer t0ken\n")
    with v2_server() as (address, server):
        load(address)
        assert {headers["Authorization"] for headers in server.received} == {"Bearer t0ken"}
        load(with_credentials(address))  # those in the address take precedence
        assert server.received[-1]["Authorization"] == BASIC
    with (
        http_server(lambda *_: (403, b"not with t0ken")) as server,
        pytest.raises(DigitNetError, match=r"not with \*\*\*"),
    ):
        load(server + MODEL)


@pytest.mark.parametrize("header", ["Bearer t0k\nen", "Bearer t0k\u00e9n"])
def test_an_authorization_that_is_not_a_header_is_one_message(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTHORIZATION, header)
    with pytest.raises(DigitNetError, match="expected one line of ASCII") as caught:
        load(f"http://127.0.0.1:9{MODEL}")
    assert "t0k" not in str(caught.value)
