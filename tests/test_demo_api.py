"""The page's HTTP API on a real server: answers and errors."""

import contextlib
import io
import json
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from tf_serving import http_server
from time_limits import scaled
from v2_server import V2, local
from web_page import MAX_SECONDS, RunningPage, form_of, post, running_page, started_page

from keras_digitnet.demo.uploads import MAX_BYTES
from keras_digitnet.pictures.sources import NamedBytes
from keras_digitnet.reading.answers import predict_files, read_files
from keras_digitnet.reading.pipeline import as_pipeline

pytestmark = pytest.mark.xdist_group("demo")

SEVEN = (ROOT / "scripts" / "seven.png").read_bytes()


def png(pixels: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(content, "PNG")
    return content.getvalue()


TWO_SEVENS = png(
    255 - np.kron(np.tile(np.asarray(Image.open(io.BytesIO(SEVEN))), 2), np.ones((3, 3)))
)


@pytest.mark.parametrize("way", ["body", "form"])
def test_the_api_answers_like_the_commands(served: RunningPage, way: str) -> None:
    name = "seven.png" if way == "form" else "picture"
    sent = form_of(SEVEN, name=name) if way == "form" else (SEVEN,)
    model, picture = as_pipeline(), NamedBytes(SEVEN, name)
    for path, expected in (
        ("predict", next(predict_files(model, [picture])).to_json()),
        ("read", next(read_files(model, [picture])).to_json()),
    ):
        status, answer, _ = post(f"{served.address}/{path}", *sent)
        assert status == 200
        assert answer.keys() == expected.keys()
        assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
        assert answer["file"] == name
        assert answer["error"] is None
    assert answer["text"] == "7"
    (digit,), (right,) = answer["digits"], expected["digits"]
    assert digit.keys() == right.keys()
    assert digit["box"] == list(right["box"])


@pytest.mark.parametrize(
    ("path", "sent", "status", "message"),
    [
        ("read", (b"no picture at all",), 415, "picture: expected an image; received: a file that"),
        ("read", (b"",), 415, "picture: expected an image; received: no data."),
        ("read", (b"\0\0\0\x18ftypheic" + bytes(600),), 415, "but HEIC; save it as PNG or JPEG"),
        ("predict", (SEVEN[:100],), 422, "picture: expected an image; received: "),
        (
            "predict",
            form_of(SEVEN[:100], name="x.png"),
            422,
            "x.png: expected an image; received: ",
        ),
        (
            "read",
            (png(np.full((90, 90), 200)),),
            422,
            "no digit found: expected digits that contrast",
        ),
        ("predict", (TWO_SEVENS,), 422, "expected one digit; received: 2 of them."),
        ("read", form_of(), 422, "expected a form with one file; received: 0 files."),
        ("read", form_of(SEVEN, SEVEN), 422, "expected a form with one file; received: 2 files."),
        ("read", (b"--y\r\n", "multipart/form-data; boundary=x"), 400, "expected a form"),
        ("read", (b"", "multipart/form-data"), 400, "expected a form with one file"),
        ("read", (bytes(2 * MAX_BYTES),), 413, "picture: expected at most 20 MB; received: more."),
        ("read", form_of(bytes(2 * MAX_BYTES)), 413, "picture: expected at most 20 MB"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value)[:40],
)
def test_a_refusal_is_one_message(
    served: RunningPage, path: str, sent: Any, status: int, message: str
) -> None:
    code, answer, _ = post(f"{served.address}/{path}", *sent)
    assert (code, message in answer["error"]) == (status, True), answer
    assert answer["error"].count("\n") == 0
    assert not any(value for name, value in answer.items() if name not in ("error", "file"))


def test_a_model_that_fails_is_not_blamed_on_the_picture() -> None:
    server = V2("nano")
    local("nano")  # before the page waits for it
    with (
        http_server(server, server.received) as address,
        running_page(ends_within=30, model=f"{address}/v2/models/digitnet") as page,
    ):
        assert post(f"{page.address}/read", SEVEN)[0] == 200
        server.change = lambda outputs: {name: 0 * array for name, array in outputs.items()}
        for path in ("predict", "read"):
            status, answer, _ = post(f"{page.address}/{path}", SEVEN)
            assert status == 502
            assert "expected probabilities" in answer["error"]


def upload_half(served: RunningPage, path: str, form: bool = False) -> socket.socket:
    """A connection that has sent only a part of a picture."""
    body, kind = form_of(SEVEN) if form else (SEVEN, "image/png")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    host, port = served.address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + b"\r\n" + body[:150])
    return connection


def test_a_client_that_disconnects_during_an_upload_leaves_no_trace(served: RunningPage) -> None:
    said = served.said()
    for path in ("/read", "/predict", "/page/read"):
        for form in (False, True):
            upload_half(served, path, form).close()
    assert post(f"{served.address}/read", SEVEN)[0] == 200
    assert served.said() == said


def test_too_many_requests_get_retry_after(served: RunningPage) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(upload_half(served, "/read"))
        answers = []
        deadline = time.monotonic() + scaled(MAX_SECONDS)
        while not answers or (answers[-1][0] != 503 and time.monotonic() < deadline):
            answers.append(post(f"{served.address}/predict", SEVEN))
    status, answer, headers = answers[-1]
    assert (status, answer["error"]) == (503, "Too many requests at once; try again.")
    assert int({name.lower(): value for name, value in headers.items()}["retry-after"]) > 0
    while post(f"{served.address}/predict", SEVEN)[0] != 200:  # their places are free again
        assert time.monotonic() < deadline


def test_the_page_is_served_while_a_picture_is_read(served: RunningPage) -> None:
    page = (ROOT / "scripts" / "page.jpg").read_bytes()
    read: list[Any] = []
    reading = threading.Thread(target=lambda: read.append(post(f"{served.address}/read", page)))
    reading.start()
    served_meanwhile = 0
    while reading.is_alive():
        with urllib.request.urlopen(served.address, timeout=scaled(MAX_SECONDS)) as response:
            response.read()
        served_meanwhile += reading.is_alive()
    assert read[0][1]["text"].split("\n")[0] == "20260714"
    assert served_meanwhile > 1


def test_the_openapi_description_matches_the_answers(served: RunningPage) -> None:
    with urllib.request.urlopen(f"{served.address}/openapi.json") as response:
        described = json.load(response)
    assert described["paths"].keys() == {"/predict", "/read"}
    for path, entry in described["paths"].items():
        kinds = entry["post"]["requestBody"]["content"].keys()
        assert kinds == {"application/octet-stream", "multipart/form-data"}
        assert {"200", "413", "415", "422", "503"} <= entry["post"]["responses"].keys()
        schema = entry["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        named = described["components"]["schemas"][schema["$ref"].rsplit("/")[-1]]
        assert named["properties"].keys() == post(served.address + path, SEVEN)[1].keys()
    # FastAPI's documentation pages load scripts from other hosts.
    for path in ("docs", "redoc"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{served.address}/{path}")


def test_the_readmes_requests_work(served: RunningPage, tmp_path: Path) -> None:
    section = (ROOT / "keras_digitnet" / "README.md").read_text().partition("## Web page\n")[2]
    lines = section.partition("\n## ")[0].splitlines()
    commands = [line.strip() for line in lines if line.startswith("    curl ")]
    assert len(commands) == 2
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for command in commands:
        here = command.replace("http://127.0.0.1:7860", served.address)
        shown = subprocess.run(here, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert json.loads(shown.stdout)["error"] is None, shown


def test_a_taken_port_is_one_message() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started_page(taken.getsockname()[1]) as server:
            _, said = server.communicate(timeout=scaled(MAX_SECONDS))
    assert server.returncode == 2
    assert said.startswith("Error: 127.0.0.1:")
    assert said.count("\n") == 1
    assert "--host and --port" in said
