"""The one exception that the package raises for what a user can fix, and the one for a stop."""

import difflib
import re
import signal
from collections.abc import Iterable


class DigitNetError(Exception):
    """A mistake that the reader of the message can fix.

    The message is one short text that says what was expected, what came
    ("received: ...") and what to do. The command line prints it and ends
    with exit code 2; a traceback is a bug.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came; the message, where there is one, says what was kept.

    Attributes:
        number: The signal's; the command line ends with 128 more.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def did_you_mean(received: object, names: Iterable[str]) -> str:
    """` Did you mean mnist?`, to end a message with, where one of the names is nearly that."""
    close = difflib.get_close_matches(str(received).lower(), list(names), 1)
    return f" Did you mean {close[0]}?" if close else ""


def first_line(error: Exception) -> str:
    """What somebody else's exception says, in one line; its type where it says nothing.

    Headings, which end in a colon, are passed over for what stands below them.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")] or lines
    return (telling or [type(error).__name__])[0][:500]


def without_credentials(where: object) -> str:
    """What a model was asked for by, to print: of an address all but its name and password."""
    return re.sub(r"^(\s*\w+:/*).*@", r"\1***@", str(where), flags=re.DOTALL)
