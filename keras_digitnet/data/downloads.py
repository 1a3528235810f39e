"""Files of Keras's data cache, fetched where they are not there yet."""

import hashlib
import http.client
import logging
import os
import time
import urllib.request
from pathlib import Path

from keras_digitnet.artifacts import atomic_write, expanded
from keras_digitnet.errors import DigitNetError

logger = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 120.0

KERAS_DATASETS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"


def cached(name: str, algorithm: str, digest: str, url: str | None = None) -> Path:
    """A file of Keras's data cache, downloaded where it is not there yet."""
    path = cache_path(name)
    if not path.is_file():
        _download(url or KERAS_DATASETS + name, path, algorithm, digest)
    return path


def cache_path(name: str) -> Path:
    home = expanded(os.environ.get("KERAS_HOME") or "~/.keras")
    return home / "datasets" / name


class DownloadError(DigitNetError):
    """The network is missing, slow or lies; `auto` goes on without it."""

    def __init__(self, url: str, reason: object) -> None:
        super().__init__(
            f"{url}: expected to download it; received: {reason}. "
            "Check the network connection, or name your own images with --data PATH."
        )
        self.reason = reason


def _download(url: str, path: Path, algorithm: str, digest: str) -> None:
    """Fetches a file whose hash is known, within `DOWNLOAD_SECONDS`."""
    logger.info("Downloading %s", url)
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    received = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=10) as response, atomic_write(path) as temporary:
            with temporary.open("wb") as file:
                while chunk := response.read1(1 << 16):
                    if time.monotonic() > deadline:
                        raise DownloadError(url, f"not done in {DOWNLOAD_SECONDS:.0f} s")
                    received.update(chunk)
                    file.write(chunk)
            if received.hexdigest() != digest:
                found = received.hexdigest()
                raise DownloadError(url, f"{algorithm} {found} where {digest} is right")
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(url, getattr(error, "reason", error)) from None
