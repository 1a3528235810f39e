"""A model behind TF Serving's REST interface, over the network.

The forms of its requests, answers and errors are those of
https://www.tensorflow.org/tfx/serving/api_rest.
"""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.runtimes import Runtime, Signature, checked_outputs

TIMEOUT_SECONDS = 10.0
TRIES = 3
PAUSE_SECONDS = 0.5

_MOST_BYTES = 1 << 26
# Busy, or between two versions; anything else stays as it is.
_WORTH_ANOTHER_TRY = {429, 502, 503, 504}
_HOST = re.compile(r"[\w.:-]+", re.ASCII)
_MODEL_PATH = re.compile(r"/v1/models/[\w.-]+(/(versions|labels)/[\w.-]+)?", re.ASCII)


def is_address(where: str) -> bool:
    return where.lower().startswith(("http://", "https://"))


def open_server(address: str) -> Runtime:
    """Connects to a served model, such as `http://localhost:8501/v1/models/digitnet`.

    Every request has `TIMEOUT_SECONDS` to connect and as many to be answered,
    and `TRIES` tries where the server is down, slow or busy.

    Raises:
        DigitNetError: The address is no model's, nobody answers, or what
            answers is another model. `predict_batch` raises the same.
    """
    address = require_address(address)
    outputs, num_classes = _outputs(address, _ask(f"{address}/metadata"))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        request = {"signature_name": "serving_default", "inputs": {"images": images.tolist()}}
        answer = _ask(f"{address}:predict", json.dumps(request).encode())
        return _arrays(address, answer, outputs)

    return Runtime(address, predict_batch, num_classes, outputs)


def require_address(address: str) -> str:
    """The address of a model, without what may follow it; nothing is sent there.

    Raises:
        DigitNetError: It is no model's.
    """
    address = address.rstrip("/").removesuffix(":predict")
    if not _is_model(address):
        raise DigitNetError(
            "model: expected an address like http://localhost:8501/v1/models/digitnet; "
            f"received: {address}."
        )
    return address


def _is_model(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as the connection will
    except ValueError:
        return False
    named = _HOST.fullmatch(host) and port != 0 and _MODEL_PATH.fullmatch(parts.path)
    return bool(named) and not parts.query and not parts.fragment


def _outputs(address: str, metadata: Any) -> tuple[tuple[str, ...], int]:
    try:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        signature = signatures["serving_default"]
        inputs, outputs = (_described(signature[key]) for key in ("inputs", "outputs"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise DigitNetError(
            f"{address}: expected the metadata of a model with serving_default; "
            f"received: {_shortened(metadata)}"
        ) from None
    return checked_outputs(address, inputs, outputs)


def _described(tensors: Any) -> Signature:
    def size(dim: Any) -> int | None:
        return None if int(dim["size"]) < 0 else int(dim["size"])

    dtypes = {"DT_UINT8": "uint8", "DT_FLOAT": "float32", "DT_INT32": "int32"}
    return {
        name: (
            dtypes.get(tensor["dtype"], tensor["dtype"]),
            tuple(map(size, tensor["tensor_shape"]["dim"])),
        )
        for name, tensor in tensors.items()
    }


def _arrays(address: str, answer: Any, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    try:
        outputs = answer["outputs"]
        dtypes = {"label": np.int64}
        return tuple(np.array(outputs[name], dtypes.get(name, np.float32)) for name in names)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DigitNetError(
            f"{address}: expected outputs {' and '.join(names)}; received: {_shortened(answer)}"
        ) from None


def _shortened(answer: Any) -> str:
    text = json.dumps(answer)
    return text if len(text) <= 200 else f"{text[:200]} ..."


# HTTP


class _BusyError(Exception):
    """Another try may help."""


def _ask(url: str, body: bytes | None = None) -> Any:
    """The JSON that a server answers with."""
    for attempt in range(1, TRIES + 1):
        try:
            content = _fetch(url, body)
            break
        except _BusyError as error:
            if attempt == TRIES:
                raise DigitNetError(
                    f"{url}: expected an answer within {TIMEOUT_SECONDS:g} s; received: {error} "
                    f"({TRIES} tries). Is the server running?"
                ) from None
            time.sleep(PAUSE_SECONDS * attempt)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise DigitNetError(
            f"{url}: expected JSON from TF Serving; received: {content[:100]!r}"
        ) from None


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
    """What TF Serving says in `{"error": ...}`, else the beginning of what came."""
    try:
        return " ".join(str(json.loads(content)["error"]).split())[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return repr(content[:100])
