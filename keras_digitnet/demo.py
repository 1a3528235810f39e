"""A web page: a sketchpad that answers as one draws, and numbers read from photos."""

import logging
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reader import Team, annotate, find_digit, read

logger = logging.getLogger(__name__)

# What one upload may weigh, and how many requests may wait for an answer; more are told "busy".
_MOST_BYTES = "20mb"
_MOST_WAITING = 64

_PAD = 280  # pixels a side
_PEN = 16  # pixels wide
_WIDE = 420  # pixels on the screen, tools and margins included
_ABOUT = """
# DigitNet
Draw a digit, or give it a photo of a number. It runs on this machine alone.
"""
_HOW = """
A digit is cut out of its paper, scaled to 20 pixels, and centred by its mass in 28x28 pixels:
MNIST's form, which the model was trained on.
"""
_COLUMNS = ("digit", "confidence", "else", "left", "top", "width", "height")

# The strokes of the examples, as points on a sheet of 0 to 1 by 0 to 1.
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "2": (((0.25, 0.3), (0.4, 0.15), (0.65, 0.2), (0.68, 0.4), (0.25, 0.85), (0.75, 0.82)),),
    "4": (((0.35, 0.15), (0.25, 0.55), (0.75, 0.55)), ((0.62, 0.3), (0.6, 0.88))),
    "5": (
        ((0.7, 0.17), (0.35, 0.17), (0.32, 0.45), (0.6, 0.45)),
        ((0.6, 0.45), (0.7, 0.62), (0.6, 0.82), (0.3, 0.82)),
    ),
    "7": (((0.25, 0.2), (0.75, 0.18), (0.42, 0.87)),),
}
_NUMBER = "72 45"


def serve(team: Team, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C, which it raises as KeyboardInterrupt.

    Args:
        team: What reads the digits.
        host: The address it listens at; 0.0.0.0 lets other machines in.
        port: Its port.

    Raises:
        DigitNetError: gradio is missing, or the address is taken or none of ours.
    """
    with TemporaryDirectory(prefix="keras-digitnet-") as folder:
        page = _build_page(team, Path(folder))
        try:
            page.launch(
                server_name=host,
                server_port=port,
                max_file_size=_MOST_BYTES,
                footer_links=["api"],
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise DigitNetError(
                f"{host}:{port}: expected a free address of this machine; received: {error}. "
                "Name others with --host and --port."
            ) from None
        logger.info("Reading digits at http://%s:%d; Ctrl-C ends it.", host, port)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _build_page(team: Team, folder: Path) -> Any:
    """The page as a `gradio.Blocks`; its examples are drawn into the folder."""
    gradio = import_extra("gradio", "demo")
    # An upload is deleted an hour after it came.
    with gradio.Blocks(title="DigitNet", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(_ABOUT)
        with gradio.Tab("Draw"):
            _add_sketchpad(gradio, team, folder)
        with gradio.Tab("Photo"):
            _add_reader(gradio, team, folder)
    page.queue(max_size=_MOST_WAITING)
    return page


def _add_sketchpad(gradio: Any, team: Team, folder: Path) -> None:
    from PIL import Image

    def answer(sketch: dict[str, Any]) -> tuple[dict[str, float] | None, Any]:
        try:
            digit = find_digit(sketch["composite"], team)
        except DigitNetError:  # nothing is drawn yet, or no more, or several digits
            return None, None
        probabilities = digit.presence * team.name([digit])[0]
        named = dict(zip(team.classes, map(float, probabilities), strict=True))
        return named, Image.fromarray(digit.image).resize((_PAD, _PAD), Image.Resampling.NEAREST)

    with gradio.Row():
        with gradio.Column(scale=0, min_width=_WIDE):  # the pad keeps the width it starts with
            pad = gradio.Sketchpad(
                # On a sheet it draws at once; without one it asks for a tool first.
                Image.new("L", (_PAD, _PAD), "white"),
                type="pil",
                image_mode="L",
                label="Draw a digit",
                canvas_size=(_PAD, _PAD),
                fixed_canvas=True,
                layers=False,
                transforms=(),
                height=_WIDE,
                brush=gradio.Brush(default_size=_PEN, colors=["#000000"], color_mode="fixed"),
            )
        bars = gradio.Label(label="Probabilities", num_top_classes=len(team.classes))
        with gradio.Column():
            seen = gradio.Image(label="What the model sees", height=_PAD, buttons=[])
            gradio.Markdown(_HOW)
    gradio.Examples([_draw(text, folder) for text in _STROKES], pad, label="Examples")
    gradio.on(
        [pad.change, pad.input],
        answer,
        pad,
        [bars, seen],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


def _add_reader(gradio: Any, team: Team, folder: Path) -> None:
    def answer(path: str | None) -> tuple[Any, str, list[list[Any]]]:
        """The annotated picture, its text, and a row a digit."""
        if path is None:
            return None, "", []
        try:
            reading = read(path, team)
        except DigitNetError as error:
            # The user's file has a name here that the user never gave it.
            message = str(error).replace(path, Path(path).name)
            raise gradio.Error(message, print_exception=False) from None
        rows = [
            [digit.label, f"{digit.confidence:.1%}", _others(digit.alternatives), *digit.box]
            for digit in reading.digits
        ]
        return annotate(path, reading), reading.text, rows

    with gradio.Row():
        photo = gradio.File(label="Photo or scan", file_types=["image"], height=160)
        text = gradio.Textbox(label="Text", lines=4, buttons=["copy"])
    annotated = gradio.Image(label="What was found", buttons=["fullscreen", "download"])
    table = gradio.Dataframe(headers=list(_COLUMNS), label="Digits", interactive=False)
    gradio.Examples([_draw(_NUMBER, folder)], photo, label="Example")
    photo.change(answer, photo, [annotated, text, table], api_name="read")


def _others(alternatives: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{label} {probability:.1%}" for label, probability in alternatives)


def _draw(text: str, folder: Path) -> str:
    """Path of a new picture of a text, drawn with `_STROKES`."""
    from PIL import Image, ImageDraw

    sheet = Image.new("L", (_PAD * len(text), _PAD), "white")
    pen = ImageDraw.Draw(sheet)
    for column, character in enumerate(text):
        for stroke in _STROKES.get(character, ()):
            points = [((column + x) * _PAD, y * _PAD) for x, y in stroke]
            pen.line(points, fill="black", width=_PEN, joint="curve")
            for x, y in points:  # round where it starts, turns and ends
                pen.circle((x, y), _PEN / 2, fill="black")
    path = folder / f"{text}.png"
    sheet.save(path)
    return str(path)
