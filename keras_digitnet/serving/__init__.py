"""Clients of served models."""

import re

from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.serving import open_inference, tf_serving
from keras_digitnet.serving.transport import Server, require_server

_PATHS = re.compile(f"{tf_serving.PATH.pattern}|{open_inference.PATH.pattern}", re.ASCII)
_EXAMPLES = "http://localhost:8501/v1/models/digitnet or http://localhost:8000/v2/models/digitnet"


def is_address(where: str) -> bool:
    """Whether a model's name is a URL."""
    return where.lower().startswith(("http://", "https://"))


def open_server(address: str) -> Runtime:
    """Connects to a served model at a URL of TF Serving (`/v1/`) or the V2 protocol (`/v2/`).

    A request may take `transport.TIMEOUT_SECONDS` to connect, and the same
    time again for the answer. It is tried `transport.TRIES` times if the
    server is down, slow or busy.

    Raises:
        DigitNetError: The URL is not that of a model, the server does not
            answer, or it serves another kind of model. `predict_batch` raises
            it too.
    """
    server = require_address(address)
    protocol = open_inference if "/v2/models/" in server.url else tf_serving
    return protocol.open_model(server)


def require_address(address: str) -> Server:
    """Parses the URL of a model, dropping `:predict` or `/infer`; sends nothing.

    Raises:
        DigitNetError: The URL is not that of a model.
    """
    model = address.rstrip("/").removesuffix(":predict").removesuffix("/infer")
    return require_server(model, _PATHS, _EXAMPLES)
