"""A web page that reads what one draws and photos of numbers, and an HTTP API that does the same.

The page is our own, `page.html`: a canvas and a table are all it needs, while the sketchpads of
Gradio and its like bring their own brushes, zoom and errors, and a hundred packages.
"""

import logging
import socket

from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.reader import Team

logger = logging.getLogger(__name__)

_SECONDS_TO_END = 3  # that Ctrl-C leaves to answers that are on their way


def require_packages() -> None:
    """Raises DigitNetError where a package of the extra `demo` is missing."""
    for package in ("fastapi", "uvicorn", "python_multipart"):
        import_extra(package, "demo")


def serve(team: Team, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C, which it raises as KeyboardInterrupt.

    Args:
        team: What reads the digits.
        host: The address it listens at; 0.0.0.0 lets other machines in.
        port: Its port.

    Raises:
        DigitNetError: A package of the extra is missing, or the address is
            taken or none of this machine's.
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
    # A damaged form is its sender's business.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        build_app(team),
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    with listening:
        shown = f"[{host}]" if ":" in host else host
        logger.info("Reading digits at http://%s:%d; Ctrl-C ends it.", shown, port)
        uvicorn.Server(config).run(sockets=[listening])
