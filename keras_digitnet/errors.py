"""The one exception that the package raises for what a user can mend."""


class DigitNetError(Exception):
    """A mistake that the reader of the message can mend.

    The message is one short text that says what was expected, what came
    ("received: ...") and what to do. The command line prints it and ends
    with exit code 2; a traceback is a bug.
    """
