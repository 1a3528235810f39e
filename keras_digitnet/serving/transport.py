"""JSON over HTTP: addresses, credentials, deadlines, tries, limits, and failures in one line."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line, without_credentials

AUTHORIZATION = "KERAS_DIGITNET_AUTHORIZATION"
# How long the JSON is in a request or an answer where raw bytes follow it.
JSON_LENGTH = "Inference-Header-Content-Length"
TIMEOUT_SECONDS = 10.0
TRIES = 3
PAUSE_SECONDS = 0.5

_JSON = {"Content-Type": "application/json"}
_MOST_BYTES = 1 << 26
# Busy, or between two versions; anything else stays as it is.
_WORTH_ANOTHER_TRY = {429, 502, 503, 504}
_HOST = re.compile(r"[\w.:-]+", re.ASCII)


class RefusedError(DigitNetError):
    """The server answers that it will not."""


class _BusyError(Exception):
    """Another try may help."""


@dataclass(frozen=True)
class Server:
    """Where a model is served.

    Attributes:
        url: Of the model, such as `http://localhost:8501/v1/models/digitnet`,
            without credentials: messages name it.
        authorization: The header of that name; empty for none.
    """

    url: str
    authorization: str = field(default="", repr=False)

    def ask(
        self, url: str, body: bytes | None = None, headers: Mapping[str, str] = _JSON
    ) -> tuple[Any, bytes]:
        """The JSON that the server answers with, and the raw bytes behind it.

        Raises:
            RefusedError: The server answers with an error.
            DigitNetError: There is no such answer in time, after `TRIES` tries.
        """
        for attempt in range(1, TRIES + 1):
            try:
                content, json_length = self._fetch(url, body, headers)
                break
            except _BusyError as error:
                if attempt == TRIES:
                    raise DigitNetError(
                        f"{url}: expected an answer within {TIMEOUT_SECONDS:g} s; "
                        f"received: {error} ({TRIES} tries). Is the server running?"
                    ) from None
                time.sleep(PAUSE_SECONDS * attempt)
        try:
            length = len(content) if json_length is None else max(0, int(json_length))
            return json.loads(content[:length]), content[length:]
        except (ValueError, RecursionError):
            received = self._hiding(content)[:100]
            raise DigitNetError(f"{url}: expected JSON; received: {received!r}") from None

    def error(self, expected: str, answer: Any) -> DigitNetError:
        """What to raise for JSON that is not what was expected."""
        text = self._hiding(json.dumps(answer).encode()).decode()
        text = text if len(text) <= 200 else f"{text[:200]} ..."
        return DigitNetError(f"{self.url}: expected {expected}; received: {text}")

    def _fetch(
        self, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[bytes, str | None]:
        """The body of an answer, and what its header says of the JSON's length."""
        parts = urllib.parse.urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        if self.authorization:
            headers = {**headers, "Authorization": self.authorization}
        late = threading.Event()
        try:
            connection.connect()
            with _deadline(connection.sock, late):
                method = "GET" if body is None else "POST"
                connection.request(method, parts.path, body, headers)
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
            return content, response.getheader(JSON_LENGTH)
        answer = f"status {response.status}, {_reason(self._hiding(content))}"
        if response.status in _WORTH_ANOTHER_TRY:
            raise _BusyError(answer)
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            answer += f". Put credentials into the address, or into {AUTHORIZATION}."
        raise RefusedError(f"{url}: expected an answer; received: {answer}")

    def _hiding(self, content: bytes) -> bytes:
        """What came, without the credentials, which a server may repeat."""
        scheme, _, token = self.authorization.rpartition(" ")
        secrets = {token}
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                secrets.add(base64.b64decode(token).decode().partition(":")[2])
        for secret in filter(None, secrets):
            for written in (secret, json.dumps(secret)[1:-1]):
                content = content.replace(written.encode(), b"***")
        return content


def require_server(address: str, paths: re.Pattern[str], example: str) -> Server:
    """What an address names, if its path is a model's; nothing is sent there.

    Raises:
        DigitNetError: It is no model's, or what the environment holds is no header.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as the connection will
        named = _HOST.fullmatch(host) and port != 0 and paths.fullmatch(parts.path)
        if not named or parts.query or parts.fragment:
            raise ValueError
    except ValueError:
        raise DigitNetError(
            f"model: expected an address like {example}; received: {without_credentials(address)}."
        ) from None
    credentials, _, place = parts.netloc.rpartition("@")
    return Server(f"{parts.scheme}://{place}{parts.path}", _authorization(credentials))


def _authorization(credentials: str) -> str:
    """The header for `name:password` of an address, else that of the environment."""
    if credentials:
        name, _, password = credentials.partition(":")
        text = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
        return f"Basic {base64.b64encode(text.encode()).decode()}"
    header = os.environ.get(AUTHORIZATION, "").strip()
    if not header.isascii() or not header.isprintable():
        raise DigitNetError(
            f"{AUTHORIZATION}: expected one line of ASCII, such as Bearer TOKEN; "
            "received: other characters."
        )
    return header


def exactly(values: Any, dtype: np.dtype | type[np.generic]) -> np.ndarray:
    """Lists of JSON as an array.

    Raises:
        TypeError: They hold something else, such as a fraction for an integer.
        ValueError: They are of unequal length.
    """
    return np.array(values).astype(dtype, casting="same_kind")


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
