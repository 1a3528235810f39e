"""Runs the web page and calls its HTTP API."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from environments import without_backend
from time_limits import scaled

MAX_SECONDS = 60  # for an answer; see time_limits.py


@dataclass(frozen=True)
class RunningPage:
    """A served page: its address, its process and the log of its messages."""

    address: str
    process: int
    stderr: Path

    def said(self) -> list[str]:
        return self.stderr.read_text().splitlines()


@contextlib.contextmanager
def started_page(
    port: int, stderr: IO[str] | int = subprocess.PIPE, model: str | None = "nano"
) -> Iterator[subprocess.Popen[str]]:
    """Starts the page's process, and ends it even if the test fails.

    Without a model it reads as `keras-digitnet demo` does by default.
    """
    command = [sys.executable, "-m", "keras_digitnet", "demo"]
    if model is not None:
        command += ["--model", model]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        stderr=stderr,
        stdout=subprocess.PIPE,
        text=True,
        env=without_backend(),
        # A shell that runs the tests in the background makes their children ignore Ctrl-C too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def running_page(ends_within: float, model: str | None = "nano") -> Iterator[RunningPage]:
    """Serves a page; Ctrl-C must end it in time, and it must print nothing else."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    with (
        tempfile.NamedTemporaryFile("w", suffix=".log") as stderr,
        started_page(port, stderr, model) as server,
    ):
        page = RunningPage(f"http://127.0.0.1:{port}", server.pid, Path(stderr.name))
        deadline = time.monotonic() + scaled(MAX_SECONDS)
        while not page.said() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        serving = [f"Reading digits at {page.address}; stop with Ctrl-C."]
        assert page.said() == serving, page.said()
        yield page
        server.send_signal(signal.SIGINT)
        assert server.wait(scaled(ends_within)) == 130
        assert page.said() == [*serving, "Interrupted."], page.said()


def form_of(*pictures: bytes, name: str = "a.png") -> tuple[bytes, str]:
    """A form with pictures, and its content type."""
    disposition = f'Content-Disposition: form-data; name="picture"; filename="{name}"'.encode()
    parts = [b"--x\r\n" + disposition + b"\r\n\r\n" + each + b"\r\n" for each in pictures]
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def post(
    url: str, body: bytes, content_type: str = "application/x-www-form-urlencoded"
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The status, JSON and headers of the answer; the content type is what curl sends."""
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=scaled(MAX_SECONDS)) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def ask(address: str, path: Path) -> str:
    """The text of a picture, by the request in the README."""
    status, answer, _ = post(f"{address}/read", *form_of(path.read_bytes()))
    assert status == 200, answer
    return str(answer["text"])
