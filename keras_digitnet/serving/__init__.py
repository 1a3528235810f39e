"""Models that a server runs, over the network."""

from keras_digitnet.runtimes import Runtime
from keras_digitnet.serving import tf_serving
from keras_digitnet.serving.transport import Server, require_server

_EXAMPLE = "http://localhost:8501/v1/models/digitnet"


def is_address(where: str) -> bool:
    return where.lower().startswith(("http://", "https://"))


def open_server(address: str) -> Runtime:
    """Connects to a served model, such as `http://localhost:8501/v1/models/digitnet`.

    Every request has `transport.TIMEOUT_SECONDS` to connect and as many to be
    answered, and `transport.TRIES` tries where the server is down, slow or busy.

    Raises:
        DigitNetError: The address is no model's, nobody answers, or what
            answers is another model. `predict_batch` raises the same.
    """
    return tf_serving.open_model(require_address(address))


def require_address(address: str) -> Server:
    """The model that an address names, without what may follow it; nothing is sent there.

    Raises:
        DigitNetError: It is no model's.
    """
    return require_server(address.rstrip("/").removesuffix(":predict"), tf_serving.PATH, _EXAMPLE)
