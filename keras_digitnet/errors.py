"""The exceptions for user-fixable errors and for interruption, and helpers for messages."""

import difflib
import re
import signal
from collections.abc import Iterable


class DigitNetError(Exception):
    """An error that the user can fix.

    The message is one line that says what was expected, what was received and
    what to do. The command line prints it and exits with code 2; a traceback
    is a bug.
    """


class ModelError(DigitNetError):
    """The model failed, or its server did: the fault is not in what it was given."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM was received; the message, if any, says what was saved.

    Attributes:
        number: The signal's number; the command line exits with 128 + number.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def did_you_mean(received: object, names: Iterable[str]) -> str:
    """The end of a message, such as ` Did you mean mnist?`; empty if no name is similar."""
    close = difflib.get_close_matches(str(received).lower(), list(names), 1)
    return f" Did you mean {close[0]}?" if close else ""


def first_line(error: Exception) -> str:
    """The first informative line of another library's exception, or its type if it has no text.

    Headings, which end in a colon, are skipped.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if not line.endswith(":")] or lines
    return (informative or [type(error).__name__])[0][:500]


def without_credentials(where: object) -> str:
    """A model's name, path or address for printing, with passwords and the query masked."""
    scheme = r"^(\s*[\"']?[\w+.-]+(?::/*|//+))"
    masked = re.sub(rf"{scheme}.*@", r"\1***@", str(where), flags=re.DOTALL)
    return re.sub(r"([?&][\w.-]+=)[^&#]*", r"\1***", masked) if "//" in masked else masked
