"""Models that a server runs, over the network."""

import re

from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.serving import open_inference, tf_serving
from keras_digitnet.serving.transport import Server, require_server

_PATHS = re.compile(f"{tf_serving.PATH.pattern}|{open_inference.PATH.pattern}", re.ASCII)
_EXAMPLES = "http://localhost:8501/v1/models/digitnet or http://localhost:8000/v2/models/digitnet"


def is_address(where: str) -> bool:
    return where.lower().startswith(("http://", "https://"))


def open_server(address: str) -> Runtime:
    """Connects to a served model, as TF Serving's `/v1/` or the V2 protocol's `/v2/` names it.

    Every request has `transport.TIMEOUT_SECONDS` to connect and as many to be
    answered, and `transport.TRIES` tries where the server is down, slow or busy.

    Raises:
        DigitNetError: The address is no model's, nobody answers, or what
            answers is another model. `predict_batch` raises the same.
    """
    server = require_address(address)
    protocol = open_inference if "/v2/models/" in server.url else tf_serving
    return protocol.open_model(server)


def require_address(address: str) -> Server:
    """The model that an address names, without what may follow it; nothing is sent there.

    Raises:
        DigitNetError: It is no model's.
    """
    model = address.rstrip("/").removesuffix(":predict").removesuffix("/infer")
    return require_server(model, _PATHS, _EXAMPLES)
