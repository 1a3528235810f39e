import base64
import contextlib
import io
import os
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import open_upright, read_grey, read_image


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "1"])
def test_a_picture_of_the_right_size_passes_unchanged(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (28, 28)).astype(np.uint8) * 255
    if mode == "I;16":
        picture = Image.fromarray(pixels.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "x.png")
    image, as_it_is = read_image(tmp_path / "x.png")
    assert as_it_is
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels)


def test_sixteen_bits_and_transparent_paper(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    wide = (pixels.astype(">u2") * 257).tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 28 28 65535\n" + wide)
    assert np.array_equal(read_image(tmp_path / "x.pgm")[0], pixels)
    ink = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    ink.putalpha(Image.fromarray(pixels))
    ink.save(tmp_path / "ink.png")
    assert np.array_equal(read_image(tmp_path / "ink.png")[0], pixels)
    Image.fromarray(pixels.astype(np.float32) / 255).save(tmp_path / "x.tiff")
    with pytest.raises(DigitNetError, match="neither 8-bit nor 16-bit"):
        read_image(tmp_path / "x.tiff")


def test_transparent_paper_contrasts_with_the_ink() -> None:
    ink = Image.new("RGBA", (2, 1), (30, 30, 30, 255))
    ink.putpixel((0, 0), (30, 30, 30, 0))
    assert read_grey(ink).tolist() == [[255, 30]]


@pytest.mark.parametrize("alpha", [8, 30, 60, 100, 127, 128, 200, 255])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30), (128, 128, 128)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_faint_ink_on_a_transparent_canvas_is_ink(
    alpha: int, colour: tuple[int, int, int], mode: str
) -> None:
    """Pressure-sensitive pens and pencil brushes draw translucent ink."""
    canvas = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).line([(10, 8), (30, 7), (17, 35)], (*colour, alpha), 4)
    grey = read_grey(canvas.convert(mode)).astype(int)
    opaque = np.asarray(canvas)[..., 3] > 0
    assert np.abs(grey[opaque] - grey[0, 0]).min() > 90
    assert len(set(grey[~opaque])) == 1


def test_an_erased_canvas_is_empty() -> None:
    canvas = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert np.ptp(read_grey(canvas)) == 0
    ImageDraw.Draw(canvas).line([(10, 8), (30, 7)], (0, 0, 0, 3), 4)
    assert np.ptp(read_grey(canvas)) < 10


@pytest.mark.parametrize(("paper", "ink"), [(240, 20), (20, 240)])
def test_a_page_with_transparent_corners_keeps_its_paper(paper: int, ink: int) -> None:
    page = Image.new("LA", (60, 60), (paper, 255))
    ImageDraw.Draw(page).line([(30, 15), (30, 45)], (ink, 255), 5)
    corners = Image.new("L", page.size)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 59, 59), 15, fill=255)
    page.putalpha(corners)
    grey = read_grey(page)
    assert grey[0, 0] == grey[30, 5] == paper
    assert grey[30, 30] == ink


@pytest.mark.parametrize("highest", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("form", ["array", "png", "tiff", "32 bits"])
def test_the_bit_depth_is_taken_from_the_values(tmp_path: Path, highest: int, form: str) -> None:
    """Cameras store 10 and 12 bits in 16; a mask has one bit in 8 or 16."""
    ink = np.zeros((28, 28), bool)
    ink[5:20, 9:12] = True
    pixels = (ink * highest).astype(np.int32 if form == "32 bits" else np.uint16)
    picture: Any = pixels if form == "array" else tmp_path / f"x.{form[:3].replace('32 ', 'tif')}"
    if form != "array":
        Image.fromarray(pixels).save(picture)
    grey = read_grey(picture)
    assert grey[~ink].max() == 0
    assert grey[ink].min() >= min(highest, 128) if highest > 1 else (grey[ink] == 255).all()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.uint16])
def test_a_mask_is_black_and_white(dtype: type) -> None:
    mask = np.eye(9).astype(dtype)
    assert np.array_equal(read_grey(mask), np.eye(9) * 255)


def test_values_out_of_range_are_refused() -> None:
    for values, message in (
        (70_000, "pixel values from 0 to 70000, neither"),
        (-5, "from -5 to 0"),
    ):
        pixels = np.zeros((9, 9), np.int32)
        pixels[4, 4] = values
        with pytest.raises(DigitNetError, match=message):
            read_grey(Image.fromarray(pixels))


# Pictures in memory


def seven() -> bytes:
    return (ROOT / "scripts" / "seven.png").read_bytes()


class Stream:
    """A stream that is not seekable, like a response of a server."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, size: int = -1) -> bytes:
        content, self._content = self._content, b""
        return content


class Upload:
    """An asynchronous file, like FastAPI's."""

    async def read(self, size: int = -1) -> bytes:
        return seven()


def read_before(content: bytes) -> io.BytesIO:
    file = io.BytesIO(content)
    file.read()
    return file


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "hand_over",
    [
        bytearray,
        memoryview,
        lambda content: memoryview(bytes(reversed(content)))[::-1],
        io.BytesIO,
        read_before,
        Stream,
        data_url,
        lambda content: data_url(content, "image/png;charset=utf-8").rstrip("="),
        lambda content: "data:image/png;base64," + base64.encodebytes(content).decode(),
        lambda content: "data:image/png," + urllib.parse.quote(content),
        lambda content: np.asarray(Image.open(io.BytesIO(content))),
        lambda content: memoryview(np.asarray(Image.open(io.BytesIO(content)))).obj,
    ],
    ids=[
        *("bytearray", "memoryview", "strided", "BytesIO", "read before", "stream"),
        *("data URL", "unpadded", "with line ends", "percent", "array", "view"),
    ],
)
def test_pictures_in_memory_are_read(hand_over: Callable[[bytes], Any]) -> None:
    assert np.array_equal(read_grey(hand_over(seven())), read_grey(seven()))


def test_open_files_are_read_more_than_once(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(seven())
    with (tmp_path / "x.png").open("rb") as file:
        first, again = read_grey(file), read_grey(file)
        assert np.array_equal(first, again)
        assert open_upright(file).size == first.shape[::-1]
        assert not file.closed
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.png", "x.png")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive, archive.open("x.png") as member:
        assert np.array_equal(read_grey(member), first)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "received: None; give a path, the bytes of a file, an open file, a Pillow"),
        ({"composite": None}, "received: an object of type dict; give"),
        (3, "received: an object of type int; give"),
        ([[0]], "received: an object of type list; give"),
        (
            Upload(),
            "an object of type Upload, which is asynchronous; give the result",
        ),
        (io.StringIO("text"), "a file that returns str, not bytes; open it with mode"),
        (io.BytesIO(), "received: an empty file"),
        ("data:image/png;base64,!!!!" + "A" * 9000, "data URL: expected an image; received: "),
        ("data:text/plain,hello", "data URL: expected an image; received: a file that is none"),
        ("iVBORw0KGgo" * 900, "'iVBORw0KGgo.*'...: expected an image; received: no such file"),
        ("https://example.com/7.png", "received: a URL; download it first"),
        (b"%PDF-1.7", "none of PNG, .*, but PDF; save it as PNG or JPEG"),
        (b"\0\0\0\x18ftypheic", "but HEIC; save it as PNG or JPEG"),
    ],
)
def test_other_objects_are_refused_in_a_short_line(given: Any, message: str) -> None:
    with pytest.raises(DigitNetError, match=message) as caught:
        read_grey(given)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_further_pages_of_a_tiff_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "scan.tif"
    pages = [Image.new("L", (20, 20), shade) for shade in (10, 20, 30)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert read_grey(path)[0, 0] == 10
    assert read_grey(path.read_bytes())[0, 0] == 10
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 3 pages; only the first is read. The next one is {path}#page=2",
        "picture: 3 pages; only the first is read. Pass each page as a separate picture.",
    ]
    caplog.clear()
    assert [read_grey(f"{path}#page={page}")[0, 0] for page in (1, 2, 3)] == [10, 20, 30]
    assert open_upright(f"{path}#page=3").getpixel((0, 0)) == (30, 30, 30)
    with pytest.raises(DigitNetError, match="received: page 4 of a file that has fewer"):
        read_grey(f"{path}#page=4")
    assert caplog.text == ""


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_further_frames_of_an_animation_cause_a_warning(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (20, 20), (shade,) * 3) for shade in (10, 200)]
    moving, still = io.BytesIO(), io.BytesIO()
    frames[0].save(moving, form, save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(still, form, lossless=True)
    assert read_grey(moving)[0, 0] == 10
    assert caplog.messages == ["picture: an animation; only its first frame is read."]
    assert read_grey(still)[0, 0] == 10
    assert len(caplog.messages) == 1


def test_16_bit_colours_that_use_fewer_bits_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint16)
    pixels[10:30, 18:22] = 1000
    for name in ("x.png", "x.tif"):
        cv2.imwrite(str(tmp_path / name), pixels)
        with pytest.raises(DigitNetError, match="received: 16-bit colours that use fewer bits"):
            read_grey(tmp_path / name)
        cv2.imwrite(str(tmp_path / name), pixels * 60)
        assert read_grey(tmp_path / name).max() > 200


def test_a_decompression_bomb_is_not_decoded(tmp_path: Path) -> None:
    Image.new("L", (9000, 9000)).save(tmp_path / "x.png")
    with pytest.raises(DigitNetError, match="received: 9000x9000 pixels; make it smaller"):
        read_grey(tmp_path / "x.png")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "y.png")
    with pytest.raises(DigitNetError, match="expected an image; received: "):
        read_grey(tmp_path / "y.png")


def jpeg_of_scans(side: int, count: int) -> bytes:
    """A colour JPEG whose last scan is repeated."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
    file = io.BytesIO()
    picture.resize((side, side)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


def test_a_jpeg_of_too_many_scans_is_not_decoded() -> None:
    """libjpeg would take minutes for a few megabytes."""
    with pytest.raises(DigitNetError, match="a JPEG of 1,000 scans"):
        read_grey(jpeg_of_scans(2000, 1000))
    assert read_grey(jpeg_of_scans(2000, 20)).shape == (2000, 2000)
    assert read_grey(jpeg_of_scans(64, 1000)).shape == (64, 64)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 2, 2)), r"received: \(2, 2, 2\)"),
        (np.zeros((0, 5)), r"received: \(0, 5\)"),
        (np.full((9, 9), np.nan), "received: float64 from nan to nan"),
        (np.full((9, 9), 256), "received: int64 from 256 to 256"),
    ],
)
def test_an_array_that_is_not_a_picture_is_one_message(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DigitNetError, match=message):
        read_grey(pixels)


def test_an_impossible_file_name_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DigitNetError, match="received: no such file"):
        read_image(tmp_path / ("a" * 300))


def test_other_sizes_are_resized_to_28x28(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 255).save(tmp_path / "x.jpg")
    image, as_it_is = read_image(tmp_path / "x.jpg")
    assert image.shape == (28, 28)
    assert not as_it_is


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_not_a_picture_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DigitNetError, match=r"x\.png: expected an image; received: "):
        read_image(tmp_path / "x.png")
    with pytest.raises(
        DigitNetError, match=r"gone\.png: expected an image; received: no such file"
    ):
        read_image(tmp_path / "gone.png")


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DigitNetError, match="received: not a regular file"):
        read_image(tmp_path / "x.png")


def test_no_other_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow passes PostScript to Ghostscript, whatever the suffix."""
    proof = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {proof}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Image.new("RGB", (28, 28)).save(tmp_path / "x.png", "EPS")
    with pytest.raises(DigitNetError, match="received: a file that is none of PNG, JPEG"):
        read_image(tmp_path / "x.png")
    assert not proof.exists()


def test_mutated_pictures_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "x", form)
        content = bytearray((tmp_path / "x").read_bytes())
        for _ in range(40):
            mutated = bytearray(content)
            for position in random.integers(0, len(content), 4):
                mutated[position] = random.integers(256)
            (tmp_path / "y").write_bytes(mutated)
            with contextlib.suppress(DigitNetError):
                assert read_image(tmp_path / "y")[0].shape == (28, 28)
