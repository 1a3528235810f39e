"""Files in Keras's data cache, downloaded if they are missing."""

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
    """The path of a file in Keras's data cache, which is downloaded if it is missing.

    Args:
        name: Its path in the cache.
        algorithm: The hash algorithm, as `hashlib.new` takes it.
        digest: The expected hash in hexadecimal.
        url: Where to download it; Keras's data sets by default.

    Raises:
        DownloadError: It cannot be downloaded, or its hash differs.
        WriteError: It cannot be written.
    """
    path = cache_path(name)
    if not path.is_file():
        _download(url or KERAS_DATASETS + name, path, algorithm, digest)
    return path


def cache_path(name: str) -> Path:
    """The path of a file in Keras's data cache, whether or not it exists."""
    home = expanded(os.environ.get("KERAS_HOME") or "~/.keras")
    return home / "datasets" / name


class DownloadError(DigitNetError):
    """A download failed or gave other content; `auto` then falls back to bundled data.

    Attributes:
        reason: What went wrong.
    """

    def __init__(self, url: str, reason: object) -> None:
        super().__init__(
            f"{url}: expected to download it; received: {reason}. "
            "Check the network connection, or name your own images with --data PATH."
        )
        self.reason = reason


def _download(url: str, path: Path, algorithm: str, digest: str) -> None:
    """Downloads a file within `DOWNLOAD_SECONDS` and checks its hash."""
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
                raise DownloadError(url, f"{algorithm} {found}, not {digest}")
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(url, getattr(error, "reason", error)) from None
