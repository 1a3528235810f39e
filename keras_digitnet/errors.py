"""The one exception that the package raises for what a user can mend."""


class DigitNetError(Exception):
    """A mistake that the reader of the message can mend.

    The message is one short text that says what was expected, what came
    ("received: ...") and what to do. The command line prints it and ends
    with exit code 2; a traceback is a bug.
    """


def first_line(error: Exception) -> str:
    """What somebody else's exception says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
