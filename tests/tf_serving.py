"""A small server with the REST API of TensorFlow Serving.

It loads the newest version of an exported SavedModel in TensorFlow and follows
https://www.tensorflow.org/tfx/serving/api_rest: the status, metadata and
predict APIs, rows ("instances") and columns ("inputs"), `{"b64": ...}` for
bytes, and `{"error": ...}` with the HTTP codes to which
tensorflow_serving/model_servers/http_server.cc maps TensorFlow's codes.
"""

import base64
import contextlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np

HTTP_CODES = {"InvalidArgumentError": 400, "NotFoundError": 404, "UnavailableError": 503}
ADDRESS = re.compile(r"/v1/models/(?P<name>\w+)(/versions/(?P<version>\d+))?(?P<rest>.*)")

Answer = tuple[int, Any]


@dataclass(frozen=True)
class Raw:
    """An answer other than plain JSON."""

    content: bytes
    headers: dict[str, str]


class Model:
    """A served model with its name in URLs."""

    def __init__(self, servable_dir: Path) -> None:
        import tensorflow as tf
        from google.protobuf import json_format
        from tensorflow.core.protobuf import saved_model_pb2

        version_dir = max(servable_dir.iterdir(), key=lambda path: int(path.name))
        self.name = servable_dir.name
        self.version = version_dir.name
        self._loaded = tf.saved_model.load(str(version_dir))
        proto = saved_model_pb2.SavedModel()
        proto.ParseFromString((version_dir / "saved_model.pb").read_bytes())
        self._signatures = {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
            )
            for name, signature in proto.meta_graphs[0].signature_def.items()
        }

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        match = ADDRESS.fullmatch(path)
        if not match:
            return 404, {"error": f"Malformed request: {method} {path}"}
        if match["name"] != self.name or match["version"] not in (None, self.version):
            return 404, {"error": f"Servable not found for request: Latest({match['name']})"}
        apis: dict[tuple[str, str], Callable[[], Answer]] = {
            ("GET", ""): self._status,
            ("GET", "/metadata"): self._metadata,
            ("POST", ":predict"): lambda: self._predict(body),
        }
        if (method, match["rest"]) not in apis:
            return 400, {"error": f"Malformed request: {method} {path}"}
        return apis[method, match["rest"]]()

    def _status(self) -> Answer:
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": self.version, "state": "AVAILABLE", "status": status}
        return 200, {"model_version_status": [version]}

    def _metadata(self) -> Answer:
        spec = {"name": self.name, "signature_name": "", "version": self.version}
        signatures = {"signature_def": {"signature_def": self._signatures}}
        return 200, {"model_spec": spec, "metadata": signatures}

    def _predict(self, body: bytes) -> Answer:
        import tensorflow as tf

        try:
            request = json.loads(body)
        except ValueError as error:
            return 400, {"error": f"JSON Parse error: {error}"}
        name = request.get("signature_name", "serving_default")
        if name not in self._signatures:
            return 400, {"error": f'Serving signature key "{name}" not found.'}
        if ("instances" in request) == ("inputs" in request):
            return 400, {"error": "Request must contain either instances or inputs."}
        rows = "instances" in request
        signature = self._loaded.signatures[name]
        (key, spec), *_ = signature.structured_input_signature[1].items()
        values = _unwrapped(request["instances" if rows else "inputs"], key)
        try:
            array = np.asarray(_decoded(values), spec.dtype.as_numpy_dtype)
            outputs = signature(**{key: tf.constant(array)})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            return HTTP_CODES.get(type(error).__name__, 400), {"error": str(error)}
        lists = {name: output.numpy().tolist() for name, output in outputs.items()}
        if not rows:
            return 200, {"outputs": lists}
        predictions = [
            dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)
        ]
        return 200, {"predictions": predictions}


def _unwrapped(values: Any, key: str) -> Any:
    """The tensor of the only input, with or without its name."""
    if isinstance(values, dict) and key in values:
        return values[key]
    if isinstance(values, list):
        return [row[key] if isinstance(row, dict) and key in row else row for row in values]
    return values


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return base64.b64decode(value["b64"])
    return [_decoded(item) for item in value] if isinstance(value, list) else value


@contextlib.contextmanager
def http_server(
    answer: Callable[[str, str, bytes], Answer], received: list[Message] | None = None
) -> Iterator[str]:
    """Serves on a free local port; yields `http://127.0.0.1:PORT`.

    The headers of each request are added to `received`.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            if received is not None:
                received.append(self.headers)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, value = answer(self.command, self.path, body)
            headers = value.headers if isinstance(value, Raw) else {}
            value = value.content if isinstance(value, Raw) else value
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, text in headers.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Suppresses the request log."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def tf_serving(servable_dir: Path) -> Iterator[str]:
    """Serves a SavedModel; yields the model's URL."""
    model = Model(servable_dir)
    with http_server(model.answer) as address:
        yield f"{address}/v1/models/{model.name}"
