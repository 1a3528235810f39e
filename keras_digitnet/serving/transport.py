"""JSON over HTTP: addresses, deadlines, tries, limits of size, and failures in one line."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line

TIMEOUT_SECONDS = 10.0
TRIES = 3
PAUSE_SECONDS = 0.5

_MOST_BYTES = 1 << 26
# Busy, or between two versions; anything else stays as it is.
_WORTH_ANOTHER_TRY = {429, 502, 503, 504}
_HOST = re.compile(r"[\w.:-]+", re.ASCII)


class _BusyError(Exception):
    """Another try may help."""


@dataclass(frozen=True)
class Server:
    """Where a model is served.

    Attributes:
        url: Of the model, such as `http://localhost:8501/v1/models/digitnet`.
    """

    url: str

    def ask(self, url: str, body: bytes | None = None) -> Any:
        """The JSON that the server answers with.

        Raises:
            DigitNetError: There is none, in time and after `TRIES` tries.
        """
        for attempt in range(1, TRIES + 1):
            try:
                content = _fetch(url, body)
                break
            except _BusyError as error:
                if attempt == TRIES:
                    raise DigitNetError(
                        f"{url}: expected an answer within {TIMEOUT_SECONDS:g} s; "
                        f"received: {error} ({TRIES} tries). Is the server running?"
                    ) from None
                time.sleep(PAUSE_SECONDS * attempt)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise DigitNetError(f"{url}: expected JSON; received: {content[:100]!r}") from None

    def error(self, expected: str, answer: Any) -> DigitNetError:
        """What to raise for an answer in JSON that is not what was expected."""
        text = json.dumps(answer)
        text = text if len(text) <= 200 else f"{text[:200]} ..."
        return DigitNetError(f"{self.url}: expected {expected}; received: {text}")


def require_server(address: str, path: re.Pattern[str], example: str) -> Server:
    """What an address names, if its path is a model's; nothing is sent there.

    Raises:
        DigitNetError: It is no model's.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as the connection will
    except ValueError:
        host, port, parts = "", None, urllib.parse.urlsplit("")
    named = _HOST.fullmatch(host) and port != 0 and path.fullmatch(parts.path)
    if not named or parts.query or parts.fragment:
        raise DigitNetError(f"model: expected an address like {example}; received: {address}.")
    return Server(address)


def exactly(values: Any, dtype: type[np.generic]) -> np.ndarray:
    """Lists of JSON as an array.

    Raises:
        TypeError: They hold something else, such as a fraction for an integer.
        ValueError: They are of unequal length.
    """
    return np.array(values).astype(dtype, casting="same_kind")


def _fetch(url: str, body: bytes | None) -> bytes:
    parts = urllib.parse.urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    late = threading.Event()
    try:
        connection.connect()
        with _deadline(connection.sock, late):
            method = "GET" if body is None else "POST"
            connection.request(method, parts.path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read(_MOST_BYTES + 1)
        if late.is_set():
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        raise _BusyError("no answer in time" if late.is_set() else first_line(error)) from None
    finally:
        connection.close()
    if len(content) > _MOST_BYTES:
        raise DigitNetError(
            f"{url}: expected at most {_MOST_BYTES:,} bytes; received: more than that."
        )
    if response.status == http.HTTPStatus.OK:
        return content
    answer = f"status {response.status}, {_reason(content)}"
    if response.status in _WORTH_ANOTHER_TRY:
        raise _BusyError(answer)
    raise DigitNetError(f"{url}: expected an answer; received: {answer}")


@contextlib.contextmanager
def _deadline(connection: socket.socket, late: threading.Event) -> Iterator[None]:
    """Hangs up after `TIMEOUT_SECONDS`; a socket's own time-out starts again with every byte."""

    def hang_up() -> None:
        late.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(TIMEOUT_SECONDS, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _reason(content: bytes) -> str:
    """What the server says in `{"error": ...}`, else the beginning of what came."""
    try:
        return " ".join(str(json.loads(content)["error"]).split())[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return repr(content[:100])
