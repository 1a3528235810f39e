"""Reading numbers on synthetic paper with shadows, rulings and clutter."""

import dataclasses
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageDraw

import keras_digitnet as kd
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.answers import read_files
from keras_digitnet.reading.inference import Classifier
from keras_digitnet.reading.results import annotate

# Strokes in a box of 60x100.
STROKES = {
    "0": [
        [(30 + 28 * np.sin(angle), 50 - 50 * np.cos(angle)) for angle in np.linspace(0, 6.3, 30)]
    ],
    "1": [[(30, 0), (28, 100)]],
    "2": [[(4, 22), (16, 4), (38, 2), (52, 18), (48, 40), (4, 98), (60, 96)]],
    "3": [[(4, 8), (34, 2), (52, 16), (46, 38), (22, 48), (50, 58), (54, 82), (34, 98), (2, 92)]],
    "4": [[(34, 0), (2, 62), (60, 62)], [(44, 34), (42, 100)]],
    "5": [
        [(6, 44), (30, 34), (54, 52), (50, 84), (28, 98), (4, 86)],
        [(40, 2), (84, -8)],
    ],
    "7": [[(2, 4), (58, 4), (22, 100)]],
    # A one with a flag, and a nine in one loop.
    "i": [[(6, 12), (32, 0), (30, 100)]],
    "P": [
        [(8, 100)]
        + [(28 + 16 * np.sin(angle), 22 - 22 * np.cos(angle)) for angle in np.linspace(-0.8, 4.6)]
    ],
    # A four whose two strokes do not meet.
    "y": [[(10, 2), (4, 44), (16, 52), (40, 50)], [(52, 8), (48, 100)]],
    # A two with a loop at its top.
    "Q": [
        [(30 + 20 * np.sin(angle), 24 - 24 * np.cos(angle)) for angle in np.linspace(2.2, 8.0, 20)]
        + [(34, 70), (2, 96), (62, 94)]
    ],
}


def write(
    text: str, gap: int = 34, paper: int = 235, ink: int = 40, scale: float = 1.0
) -> Image.Image:
    """Draws lines of digits that are 100 pixels high."""
    rows = text.split("\n")
    width = max(map(len, rows)) * (60 + gap) + 100
    picture = Image.new("L", (width, 180 * len(rows) + 60), paper)
    pen = ImageDraw.Draw(picture)
    for row, digits in enumerate(rows):
        for column, digit in enumerate(digits):
            left, top = 60 + column * (60 + gap), 70 + 180 * row
            for stroke in STROKES[digit]:
                points = [(left + x, top + y) for x, y in stroke]
                pen.line(points, ink, 9, "curve")
    return picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BOX)


@pytest.fixture(scope="module")
def base() -> Classifier:
    return kd.load(ROOT / "saved_models" / "base" / "model.onnx")


def test_lines_are_read_with_their_boxes_in_reading_order(base: Classifier) -> None:
    reading = kd.read(write("2013\n47"), base)
    assert reading.text == "2013\n47"
    assert [digit.label for digit in reading.digits] == list("201347")
    assert reading.confidence == pytest.approx(np.prod([d.confidence for d in reading.digits]))
    last = reading.digits[-1]
    # Boxes include the pen of 9 pixels.
    assert last.box == pytest.approx((56 + 94, 66 + 180, 69, 109), abs=12)
    assert last.alternatives[0][1] <= last.confidence
    assert last.image.shape == (28, 28)


@pytest.mark.parametrize("scale", [0.35, 4])
def test_the_size_of_the_picture_does_not_matter(scale: float) -> None:
    reading = kd.read(write("30247", scale=scale))
    assert reading.text == "30247"
    left, top, _, height = reading.digits[0].box
    assert (left / scale, top / scale, height / scale) == pytest.approx((60, 70, 105), abs=24)


def test_digits_that_touch_are_cut_and_broken_ones_joined() -> None:
    assert kd.read(write("742", gap=-3)).text == "742"
    broken = write("437")
    ImageDraw.Draw(broken).line((55, 140, 125, 136), 235, 5)
    assert kd.read(broken).text == "437"


@pytest.mark.parametrize(
    ("text", "missing", "number"),
    [("2P2", (46, 60), "292"), ("030", (56, 80), "030")],
    ids=["the loop of a 9", "the end of a 3"],
)
def test_halves_of_a_broken_digit_far_from_each_other_are_joined(
    text: str, missing: tuple[int, int], number: str
) -> None:
    broken = write(text, gap=60)
    top, bottom = missing
    middle = broken.width // 2
    ImageDraw.Draw(broken).rectangle((middle - 50, 70 + top, middle + 50, 70 + bottom), 235)
    assert kd.read(broken).text == number


def test_dots_dashes_rulings_and_borders_are_not_digits() -> None:
    picture = write("2043", gap=60)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((280, 158, 292, 170), 40)
    pen.line((picture.width - 70, 120, picture.width - 30, 118), 40, 9)
    pen.line((0, 182, picture.width, 180), 90, 3)
    pen.rectangle((6, 6, picture.width - 6, picture.height - 6), None, 30, 7)
    assert kd.read(picture).text == "2043"


def test_a_photo_with_a_shadow_and_a_blackboard_are_read() -> None:
    pixels = np.asarray(write("4032")) / 255
    shadow = np.where(
        np.add.outer(np.arange(pixels.shape[0]), np.arange(pixels.shape[1])) > 300, 1, 0.5
    )
    noise = np.random.default_rng(0).normal(0, 0.02, pixels.shape)
    photo = np.clip(pixels * shadow + noise, 0, 1)
    assert kd.read(photo).text == "4032"
    assert kd.read(1 - pixels).text == "4032"


def test_paper_lit_only_in_the_middle_is_not_ink() -> None:
    pixels = np.asarray(write("4032")) / 255
    y, x = (np.linspace(-1, 1, side) for side in pixels.shape)
    lamp = np.add.outer(y**2, x**2) < 0.64
    assert kd.read(pixels * np.where(lamp, 1, 0.5)).text == "4032"


def test_ones_twos_and_nines_of_other_styles_are_read() -> None:
    assert kd.read(write("2iP")).text == "219"
    assert kd.read(write("3Q0")).text == "320"


def test_a_four_in_two_strokes_apart_is_one_digit(base: Classifier) -> None:
    assert kd.read(write("23y72")).text == "23472"
    one = kd.normalize_digit(write("y"))
    assert base.classes[base.predict(one[None]).labels[0]] == "4"


def test_one_small_digit_of_a_large_picture_is_found(base: Classifier) -> None:
    photo = Image.new("L", (1000, 1000), 235)
    photo.paste(write("7").resize((86, 132)), (600, 600))  # 57 pixels high
    one = kd.normalize_digit(photo)
    assert base.classes[base.predict(one[None]).labels[0]] == "7"


def test_a_bar_that_floats_above_the_line_belongs_to_its_digit() -> None:
    assert kd.read(write("3571", gap=50)).text == "3571"


def test_the_corner_of_a_shadow_is_not_a_digit_and_hides_none() -> None:
    faint = np.asarray(write("4032", ink=190))
    y, x = np.indices(faint.shape)
    for corner in (x + 5 * y < 300, x + 2 * y < 120, x - 4 * y > faint.shape[1] - 260):
        assert kd.read(np.where(corner, 0.4, 1) * faint / 255).text == "4032"


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "0",
        "71",
        "47\n53",
    ],
)
def test_digits_that_fill_their_picture_are_read(text: str) -> None:
    pixels = np.asarray(write(text))
    rows, columns = np.nonzero(pixels < 128)
    tight = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert kd.read(tight).text == text


def test_a_digit_of_low_confidence_is_a_question_mark() -> None:
    certain = kd.read(write("20"))
    least = min(digit.confidence for digit in certain.digits)
    doubtful = kd.read(write("20"), min_confidence=min(1, least + 1e-6))
    assert "?" in doubtful.text
    assert len(doubtful.text) == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 60_000), (300, 200)])
def test_without_ink_there_is_nothing_to_read(shape: tuple[int, int]) -> None:
    with pytest.raises(DigitNetError, match="picture: no digit found"):
        kd.read(np.full(shape, 200, np.uint8))


def test_annotated_pictures_keep_their_names_and_sizes(base: Classifier, tmp_path: Path) -> None:
    names = ("a/x.jpg", "a/x-2.jpg", "b/x.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write("20").save(tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    answers = list(read_files(base, paths, annotated_dir=tmp_path / "annotated"))
    assert [answer.to_line() for answer in answers] == ["20", "20", "20"]
    drawings = sorted(path.name for path in (tmp_path / "annotated").iterdir())
    assert drawings == ["x-2.png", "x-3.png", "x.png"]
    drawn = Image.open(tmp_path / "annotated" / "x.png")
    assert drawn.size == write("20").size
    red = np.asarray(drawn).astype(int)
    assert (red[..., 0] - red[..., 1] > 150).any()


def test_reading_changes_no_opened_picture(tmp_path: Path) -> None:
    write("20").convert("RGB").save(tmp_path / "x.jpg")
    with Image.open(tmp_path / "x.jpg") as picture:
        first, again = kd.read(picture, "base"), kd.read(picture, kd.load("base"))
        assert picture.mode == "RGB"
    assert first == again
    assert first.text == "20"


@pytest.mark.parametrize(
    "wrong", [{"min_confidence": 50}, {"smallest": 0}, {"smallest": float("nan")}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DigitNetError, match="expected min_confidence from 0 to 1"):
        kd.read(write("2"), **wrong)


def test_annotations_hide_no_stroke() -> None:
    picture = write("2047")
    reading = kd.read(picture)
    drawn, plain = np.asarray(annotate(picture, reading)), np.asarray(picture.convert("RGB"))
    for digit in reading.digits:
        left, top, width, height = digit.box
        inside = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]
        ink = plain[inside] < 128
        assert ink.any()
        assert (drawn[inside][ink] == plain[inside][ink]).all()


def test_a_notebook_shows_a_reading_on_its_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.png"
    write("20").save(path)
    for picture in (path, path.read_bytes(), np.asarray(write("20"))):
        reading = kd.read(picture)
        assert "array" not in repr(reading)
        shown = reading._repr_png_()
        assert shown is not None
        assert Image.open(io.BytesIO(shown)).size == write("20").size
    assert capsys.readouterr() == ("", "")
    assert pickle.loads(pickle.dumps(reading)).text == "20"
    assert pickle.loads(pickle.dumps(reading))._repr_png_() is None
    gone = kd.read(path)
    path.unlink()
    assert gone._repr_png_() is None
    large = np.kron(np.asarray(write("20")), np.ones((12, 12), np.uint8))
    again = dataclasses.replace(gone, picture=large)._repr_png_()
    assert again is not None
    assert max(Image.open(io.BytesIO(again)).size) == 1600
