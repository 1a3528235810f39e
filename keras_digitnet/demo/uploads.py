"""Receives pictures over HTTP, with limits of size, number and time."""

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from keras_digitnet.pictures.sources import NamedBytes

MAX_BYTES = 20_000_000  # of one picture
_FORM_BYTES = 65_536  # that a form may have in addition to its picture
_MAX_WAITING = 64  # requests in progress; more get 503
_MAX_SECONDS = 120.0  # for an upload, so that lost clients do not occupy places
_SECONDS_TO_DISCARD = 5.0


class RequestLimiter:
    """Limits the requests in progress, since each holds a picture in memory."""

    def __init__(self, limit: int = _MAX_WAITING) -> None:
        self._free = limit

    @contextlib.contextmanager
    def acquire(self) -> Iterator[None]:
        """Holds one place.

        Raises:
            HTTPException: 503, if none is free.
        """
        if not self._free:
            raise HTTPException(503, "Too many requests at once; try again.", {"Retry-After": "1"})
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def receive_picture(request: Request) -> NamedBytes:
    """Receives the picture of a request: its body, or the one file of its form.

    Raises:
        HTTPException: 413 if it is too large; 408 if it takes too long; 400 if
            a form is damaged; 422 if it has no file or several.
        ClientDisconnect: The client disconnected.
    """
    try:
        async with asyncio.timeout(_MAX_SECONDS):
            return await _received(_limited(request))
    except TimeoutError:
        raise HTTPException(
            408,
            f"picture: expected the whole upload within {_MAX_SECONDS:.0f} seconds; "
            "received: a part of it.",
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
                422, f"picture: expected a form with one file; received: {len(files)} files."
            )
        return NamedBytes(await files[0].read(), files[0].filename or "picture")


def _limited(request: Request) -> Request:
    """The same request, which fails with 413 as soon as its body is too large."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BYTES + _FORM_BYTES:
            raise HTTPException(
                413, f"picture: expected at most {MAX_BYTES // 10**6} MB; received: more."
            )
        return message

    return Request(request.scope, receive)


async def _discard_rest(request: Request) -> None:
    """Reads the rest, for clients that read the response only after sending everything."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_SECONDS_TO_DISCARD):
            async for _ in request.stream():
                pass
