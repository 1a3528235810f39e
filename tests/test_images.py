import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_digitnet.errors import DigitNetError
from keras_digitnet.images import read_grey, read_image
from keras_digitnet.picture_files import find_pictures


def test_pictures_are_found_in_folders_of_folders_by_name(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "a/1.tiff", "a/.hidden.png", "a/notes.txt", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list(find_pictures([tmp_path, tmp_path / "a" / "notes.txt", "gone.png"]))
    inside = [str(tmp_path / name) for name in ("a/1.tiff", "b/10.jpg", "b/2.PNG")]
    assert found == [*inside, str(tmp_path / "a" / "notes.txt"), "gone.png"]


def test_a_folder_without_pictures_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert list(find_pictures([tmp_path, "x.png"])) == [str(tmp_path), "x.png"]
    with pytest.raises(DigitNetError, match="expected an image; received: a folder without pict"):
        read_image(tmp_path)


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
    with pytest.raises(DigitNetError, match="not of 8 or 16 bits a pixel"):
        read_image(tmp_path / "x.tiff")


def test_transparent_paper_is_what_the_ink_stands_out_from() -> None:
    ink = Image.new("RGBA", (2, 1), (30, 30, 30, 255))
    ink.putpixel((0, 0), (30, 30, 30, 0))
    assert read_grey(ink).tolist() == [[255, 30]]


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    Image.new("L", (9000, 9000)).save(tmp_path / "x.png")
    with pytest.raises(DigitNetError, match="received: 9000x9000 pixels; make it smaller"):
        read_grey(tmp_path / "x.png")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "y.png")
    with pytest.raises(DigitNetError, match="expected an image; received: "):
        read_grey(tmp_path / "y.png")


def jpeg_of_scans(side: int, count: int) -> bytes:
    """A colour JPEG whose last scan comes again and again."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
    file = io.BytesIO()
    picture.resize((side, side)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (count - content.count(b"\xff\xda")) + content[-2:]


def test_a_jpeg_of_too_many_scans_is_not_decoded() -> None:
    """libjpeg would be busy with a few megabytes for minutes."""
    with pytest.raises(DigitNetError, match="a JPEG that goes over its pixels 1,000 times"):
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
def test_an_array_that_is_no_picture_is_one_message(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DigitNetError, match=message):
        read_grey(pixels)


def test_a_name_that_no_file_can_have_does_not_stop_the_others(tmp_path: Path) -> None:
    impossible = str(tmp_path / ("a" * 300))
    assert list(find_pictures([impossible, "x.png"])) == [impossible, "x.png"]
    with pytest.raises(DigitNetError, match="received: no such file"):
        read_image(impossible)


def test_another_size_is_brought_to_28x28(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 255).save(tmp_path / "x.jpg")
    image, as_it_is = read_image(tmp_path / "x.jpg")
    assert image.shape == (28, 28)
    assert not as_it_is


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DigitNetError, match=r"x\.png: expected an image; received: "):
        read_image(tmp_path / "x.png")
    with pytest.raises(
        DigitNetError, match=r"gone\.png: expected an image; received: no such file"
    ):
        read_image(tmp_path / "gone.png")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DigitNetError, match="received: something that is no file"):
        read_image(tmp_path / "x.png")


def test_no_other_program_is_started_for_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
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
