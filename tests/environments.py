"""Environments for the processes that tests start."""

import os


def without_backend() -> dict[str, str]:
    """The environment without KERAS_BACKEND.

    There the shipped models run in ONNX Runtime, which starts in a second.
    """
    return {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}


def users_environment() -> dict[str, str]:
    """The environment of a user, who names a backend only if it is not TensorFlow."""
    return without_backend() if os.environ["KERAS_BACKEND"] == "tensorflow" else dict(os.environ)
