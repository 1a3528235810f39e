"""JSON over HTTP: addresses, credentials, deadlines, retries, size limits and errors."""

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

from keras_digitnet.errors import DigitNetError, ModelError, first_line, without_credentials

AUTHORIZATION = "KERAS_DIGITNET_AUTHORIZATION"
# The header with the length of the JSON in a body where raw bytes follow it.
JSON_LENGTH = "Inference-Header-Content-Length"
TIMEOUT_SECONDS = 10.0
TRIES = 3
PAUSE_SECONDS = 0.5

_JSON = {"Content-Type": "application/json"}
_MAX_BYTES = 1 << 26
# Statuses of a server that is busy or switches versions; others are permanent.
_RETRIED_STATUSES = {429, 502, 503, 504}
_HOST = re.compile(r"[\w.:-]+", re.ASCII)


class ServerError(ModelError):
    """The server answered with an error."""


class _BusyError(Exception):
    """A failure that may be temporary."""


@dataclass(frozen=True)
class Server:
    """The address of a served model.

    Attributes:
        url: The model's URL, such as `http://localhost:8501/v1/models/digitnet`,
            without credentials, for messages too.
        authorization: The `Authorization` header; empty for none.
    """

    url: str
    authorization: str = field(default="", repr=False)

    def request(
        self, url: str, body: bytes | None = None, headers: Mapping[str, str] = _JSON
    ) -> tuple[Any, bytes]:
        """Sends a GET request, or a POST request if there is a body; retries temporary failures.

        Returns:
            The JSON of the answer, and the raw bytes that follow it.

        Raises:
            ServerError: The server answers with an error.
            ModelError: There is no answer in time after `TRIES` tries, or it
                is not JSON or too large.
        """
        for attempt in range(1, TRIES + 1):
            try:
                content, json_length = self._fetch(url, body, headers)
                break
            except _BusyError as error:
                if attempt == TRIES:
                    raise ModelError(
                        f"{url}: expected an answer within {TIMEOUT_SECONDS:g} s; "
                        f"received: {error} ({TRIES} tries). Is the server running?"
                    ) from None
                time.sleep(PAUSE_SECONDS * attempt)
        try:
            length = len(content) if json_length is None else max(0, int(json_length))
            return json.loads(content[:length]), content[length:]
        except (ValueError, RecursionError):
            received = self._redacted(content)[:100]
            raise ModelError(f"{url}: expected JSON; received: {received!r}") from None

    def error(self, expected: str, answer: Any) -> ModelError:
        """The exception for JSON of an unexpected form."""
        text = self._redacted(json.dumps(answer).encode()).decode()
        text = text if len(text) <= 200 else f"{text[:200]} ..."
        return ModelError(f"{self.url}: expected {expected}; received: {text}")

    def _fetch(
        self, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[bytes, str | None]:
        """The body of an answer, and the header with the length of its JSON."""
        parts = urllib.parse.urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        if self.authorization:
            headers = {**headers, "Authorization": self.authorization}
        timed_out = threading.Event()
        try:
            connection.connect()
            with _deadline(connection.sock, timed_out):
                method = "GET" if body is None else "POST"
                connection.request(method, parts.path, body, headers)
                response = connection.getresponse()
                content = response.read(_MAX_BYTES + 1)
            if timed_out.is_set():
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            raise _BusyError(
                "no answer in time" if timed_out.is_set() else first_line(error)
            ) from None
        finally:
            connection.close()
        if len(content) > _MAX_BYTES:
            raise ModelError(f"{url}: expected at most {_MAX_BYTES:,} bytes; received: more.")
        if response.status == http.HTTPStatus.OK:
            return content, response.getheader(JSON_LENGTH)
        answer = f"status {response.status}, {_reason(self._redacted(content))}"
        if response.status in _RETRIED_STATUSES:
            raise _BusyError(answer)
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            answer += f". Put credentials in the address or in {AUTHORIZATION}."
        raise ServerError(f"{url}: expected an answer; received: {answer}")

    def _redacted(self, content: bytes) -> bytes:
        """The content with the credentials masked, which a server may echo."""
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
    """Parses the URL of a model; sends nothing.

    Args:
        address: The URL, possibly with `name:password@`.
        paths: The paths that models have.
        example: Valid URLs, for the message.

    Raises:
        DigitNetError: The URL is not that of a model, or the environment
            variable `AUTHORIZATION` is not a valid header.
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
    """The header for `name:password` of a URL, otherwise that of the environment."""
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


def to_array(values: Any, dtype: np.dtype | type[np.generic]) -> np.ndarray:
    """Converts lists of JSON to an array without losing precision.

    Raises:
        TypeError: A value has another type, such as a fraction for an integer.
        ValueError: The lists are of unequal length.
    """
    return np.array(values).astype(dtype, casting="same_kind")


@contextlib.contextmanager
def _deadline(connection: socket.socket, timed_out: threading.Event) -> Iterator[None]:
    """Closes the connection after `TIMEOUT_SECONDS`, since a socket's timeout is per read."""

    def hang_up() -> None:
        timed_out.set()
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
    """The server's message in `{"error": ...}`, otherwise the start of the body."""
    try:
        return " ".join(str(json.loads(content)["error"]).split())[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return repr(content[:100])
