"""The page and its HTTP API as a FastAPI application."""

import asyncio
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keras_digitnet import __version__
from keras_digitnet.demo.uploads import RequestLimiter, receive_picture
from keras_digitnet.errors import DigitNetError, ModelError
from keras_digitnet.pictures.decoding import open_upright
from keras_digitnet.pictures.files import can_decode
from keras_digitnet.pictures.sources import NamedBytes
from keras_digitnet.reading.answers import FileReading, predict_files, read_files
from keras_digitnet.reading.pipeline import Pipeline
from keras_digitnet.reading.reader import NoDigitError, read
from keras_digitnet.reading.results import Reading

if TYPE_CHECKING:
    from PIL import Image

_FOLDER = Path(__file__).parent
# Makes the browser block requests of the page to other hosts.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
# Pictures that are read in parallel; each uses all processors, and up to half a gigabyte.
_AT_ONCE = 2
_DOUBTFUL = 0.5  # digits with less confidence are shown as ?; if all are, the picture has none
_PREVIEW = 1600  # longer side, in pixels, of the picture that the page shows

_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"picture": _BINARY}, "required": ["picture"]}
_PICTURE = {
    "requestBody": {
        "description": "A picture as the body itself, whatever its type, or as the file of a form.",
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}


class Prediction(BaseModel):
    """The digit of a picture, as `keras-digitnet predict --json` prints it."""

    file: str
    label: str | None
    confidence: float | None
    error: str | None


class ReadDigit(BaseModel):
    """A digit: its box is left, top, width and height in pixels of the upright picture."""

    label: str
    confidence: float
    alternatives: dict[str, float]
    box: tuple[int, int, int, int]


class ReadPicture(BaseModel):
    """The digits of a picture in reading order, as `keras-digitnet read --json` prints them."""

    file: str
    text: str | None
    confidence: float | None
    digits: list[ReadDigit] | None
    error: str | None


class Refusal(BaseModel):
    """The reason for an error."""

    error: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "The form is damaged.",
        408: "The upload takes too long.",
        413: "The picture is too large.",
        415: "The file is not a picture, or its format is not supported.",
        422: "The picture is damaged, or has no digit, or several where one is expected; "
        "or the form does not have exactly one file.",
        502: "The model fails, or the server that runs it does not answer.",
        503: "Too many requests are waiting; try again after Retry-After seconds.",
    }.items()
}


def build_app(pipeline: Pipeline) -> FastAPI:
    """The application: the page, `POST /predict`, `POST /read` and `/openapi.json`.

    Pictures are read in threads, so that the server stays responsive.
    """
    app = FastAPI(
        title="DigitNet",
        version=__version__,
        summary="Reads handwritten digits.",
        # FastAPI's documentation pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            HTTPException: _refuse,
            ModelError: _model_error,
            ClientDisconnect: _client_disconnected,
        },
    )
    limiter, semaphore = RequestLimiter(), asyncio.Semaphore(_AT_ONCE)

    async def answer(
        request: Request, process: Callable[[NamedBytes], dict[str, Any]]
    ) -> JSONResponse:
        with limiter.acquire():
            picture = await receive_picture(request)
            async with semaphore:
                result = await run_in_threadpool(process, picture)
        if not result["error"]:
            return JSONResponse(result)
        return JSONResponse(result, 422 if can_decode(picture[:512]) else 415)

    @app.post("/predict", response_model=Prediction, responses=_REFUSALS, openapi_extra=_PICTURE)
    async def predict_one(request: Request) -> Response:
        """Reads a picture of one digit."""
        return await answer(
            request, lambda picture: next(predict_files(pipeline, [picture])).to_json()
        )

    @app.post("/read", response_model=ReadPicture, responses=_REFUSALS, openapi_extra=_PICTURE)
    async def read_all(request: Request) -> Response:
        """Reads all digits of a picture."""
        return await answer(
            request, lambda picture: next(read_files(pipeline, [picture])).to_json()
        )

    @app.post("/page/read", include_in_schema=False)
    async def read_for_page(request: Request, preview: bool = False) -> Response:
        """The page's data; a refused picture has status 200, so that the console stays clean."""
        with limiter.acquire():
            picture = await receive_picture(request)
            async with semaphore:
                return JSONResponse(await run_in_threadpool(_for_page, picture, pipeline, preview))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FOLDER / "page.html", headers={"Content-Security-Policy": _POLICY})

    app.mount("/examples", StaticFiles(directory=_FOLDER / "examples"))
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _model_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 502)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    """Ends a request whose client has disconnected."""
    return Response(status_code=400)


def _for_page(picture: NamedBytes, pipeline: Pipeline, preview: bool) -> dict[str, Any]:
    """A reading with what else the page shows: probabilities, crops and the picture."""
    try:
        shown = _preview(picture) if preview else {}
        reading = read(picture, pipeline, _DOUBTFUL)
    except NoDigitError:
        reading = Reading("", 0.0, ())
    except DigitNetError as error:
        return {"error": str(error)}
    if all(digit.label == "?" for digit in reading.digits):  # a scribble
        reading = Reading("", 0.0, ())
    result = FileReading(str(picture), reading).to_json()
    for row, digit in zip(result["digits"], reading.digits, strict=True):
        row["probabilities"] = dict(
            zip(pipeline.classes, map(float, digit.probabilities), strict=True)
        )
        row["seen"] = _data_url(_image(digit.image), "PNG") if pipeline.classifier else None
    return result | shown


def _preview(picture: NamedBytes) -> dict[str, Any]:
    """The upright picture as a JPEG data URL, for any browser, and its size in pixels."""
    image = open_upright(picture)
    size = image.size
    image.thumbnail((_PREVIEW, _PREVIEW))
    return {"size": size, "picture": _data_url(image, "JPEG")}


def _image(pixels: Any) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(pixels)


def _data_url(image: "Image.Image", kind: str) -> str:
    content = io.BytesIO()
    image.save(content, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
