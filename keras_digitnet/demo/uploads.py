"""Pictures that come over HTTP: of limited size and number, and from clients that may leave."""

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from keras_digitnet.pictures.sources import NamedBytes

MAX_BYTES = 20_000_000  # of one picture
_OF_A_FORM = 65_536  # bytes that a form may have around its picture
_MAX_WAITING = 64  # requests that are received or answered; more are told to come again
_MAX_SECONDS = 120.0  # for an upload: a client that went away without a word holds no place
_SECONDS_TO_DISCARD = 5.0


class Places:
    """How many requests may be in progress, since each holds a picture in memory."""

    def __init__(self, most: int = _MAX_WAITING) -> None:
        self._free = most

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Holds one place.

        Raises:
            HTTPException: 503, there is none.
        """
        if not self._free:
            raise HTTPException(503, "Too many requests at once; try again.", {"Retry-After": "1"})
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def receive_picture(request: Request) -> NamedBytes:
    """The picture that a request carries: its body, or the one file of its form.

    Raises:
        HTTPException: 413, it is too large; 408, it takes too long; 400 or 422,
            a form is damaged or has no file, or several.
        ClientDisconnect: The client left.
    """
    try:
        async with asyncio.timeout(_MAX_SECONDS):
            return await _received(_limited(request))
    except TimeoutError:
        raise HTTPException(
            408, f"picture: expected within {_MAX_SECONDS:.0f} seconds; received: a part of it."
        ) from None
    except HTTPException as error:
        if error.status_code == 413:
            await _discard_rest(request)
        if error.status_code != 400:
            raise
        raise HTTPException(
            400, f"picture: expected a form with one file; received: {error.detail}"
        ) from None


async def _received(request: Request) -> NamedBytes:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return NamedBytes(await request.body(), "picture")
    async with request.form() as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(
                422, f"picture: expected a form with one file; received: {len(files)} of them."
            )
        return NamedBytes(await files[0].read(), files[0].filename or "picture")


def _limited(request: Request) -> Request:
    """The same request, which ends with 413 as soon as its body is too large."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BYTES + _OF_A_FORM:
            raise HTTPException(
                413, f"picture: expected at most {MAX_BYTES // 10**6} MB; received: more."
            )
        return message

    return Request(request.scope, receive)


async def _discard_rest(request: Request) -> None:
    """Lets a client that only listens once it has sent everything hear the answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_SECONDS_TO_DISCARD):
            async for _ in request.stream():
                pass
