"""Runs the web page and calls its HTTP API."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patience import patience

MOST_SECONDS = 60  # for an answer; see patience.py


@contextlib.contextmanager
def started_page(port: int) -> Iterator[subprocess.Popen[str]]:
    """The page's process, which is stopped at the end in any case."""
    command = [sys.executable, "-m", "keras_digitnet", "demo", "--model", "nano"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Tests that a shell runs in the background ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def running_page(ends_within: float) -> Iterator[tuple[str, int]]:
    """The page's URL and process id; Ctrl-C must end it within the time limit."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    with started_page(port) as server:
        assert server.stderr is not None
        assert f"http://127.0.0.1:{port}" in server.stderr.readline()
        yield f"http://127.0.0.1:{port}", server.pid
        server.send_signal(signal.SIGINT)
        assert server.wait(patience(ends_within)) == 130


def ask(address: str, path: Path) -> tuple[Any, str, Any]:
    """Requests the annotated picture, the text and the table as the README shows."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body += path.read_bytes() + b"\r\n--x--\r\n"
    uploaded = _fetch(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=x")
    file = {"path": json.loads(uploaded)[0], "meta": {"_type": "gradio.FileData"}}
    url = f"{address}/gradio_api/call/read"
    started = _fetch(url, json.dumps({"data": [file]}).encode(), "application/json")
    events = _fetch(f"{url}/{json.loads(started)['event_id']}")
    _, complete, answer = events.partition("event: complete\ndata: ")
    assert complete, events
    picture, text, table = json.loads(answer.splitlines()[0])
    return picture, str(text), table


def _fetch(url: str, body: bytes | None = None, content_type: str = "") -> str:
    request = urllib.request.Request(url, body, {"Content-Type": content_type} if body else {})
    with urllib.request.urlopen(request, timeout=patience(MOST_SECONDS)) as response:
        return str(response.read().decode())
