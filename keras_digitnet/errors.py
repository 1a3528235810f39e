"""The one exception that the package raises for what a user can mend."""


class DigitNetError(Exception):
    """A mistake that the reader of the message can mend.

    The message is one short text that says what was expected, what came
    ("received: ...") and what to do. The command line prints it and ends
    with exit code 2; a traceback is a bug.
    """


def first_line(error: Exception) -> str:
    """What somebody else's exception says, in one line; its type where it says nothing.

    Headings, which end in a colon, are passed over for what stands below them.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")] or lines
    return (telling or [type(error).__name__])[0][:500]
