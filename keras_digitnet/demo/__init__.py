"""A web page that reads drawn digits and photos of numbers, and the same as an HTTP API.

The page, `page.html`, needs only a canvas and a table; the sketchpads of Gradio and the like come
with unwanted features and errors, and a hundred packages.
"""

import logging
import socket

from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.pipeline import Pipeline

logger = logging.getLogger(__name__)

_SECONDS_TO_END = 3  # for pending answers after Ctrl-C


def require_packages() -> None:
    """Raises DigitNetError if a package of the extra `demo` is missing."""
    for package in ("fastapi", "uvicorn", "python_multipart"):
        import_extra(package, "demo")


def serve(pipeline: Pipeline, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C, which it raises as KeyboardInterrupt.

    Args:
        pipeline: The models that read the digits.
        host: The address to listen on; 0.0.0.0 accepts other machines.
        port: The port to listen on.

    Raises:
        DigitNetError: A package of the extra is missing, or the address is in
            use or not one of this machine.
        KeyboardInterrupt: Ctrl-C.
    """
    require_packages()
    import uvicorn

    from keras_digitnet.demo.app import build_app

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise DigitNetError(
            f"{host}:{port}: expected a free address of this machine; received: {error}. "
            "Name others with --host and --port."
        ) from None
    # Do not log damaged forms; their senders get an error.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        build_app(pipeline),
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    with listening:
        shown = f"[{host}]" if ":" in host else host
        logger.info("Reading digits at http://%s:%d; stop with Ctrl-C.", shown, port)
        uvicorn.Server(config).run(sockets=[listening])
