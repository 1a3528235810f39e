from pathlib import Path

import pytest
from PIL import Image

from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import read_image
from keras_digitnet.pictures.files import find_pictures, kind_of


def found(folder: Path) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in find_pictures([folder])]


def save(path: Path, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9)).save(path, form)


def test_pictures_are_found_in_folders_of_folders_by_name(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "a/1.tiff", "a/.hidden.png", "a/notes.txt", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    named = [str(tmp_path / "a" / "notes.txt"), "gone.png"]
    inside = [str(tmp_path / name) for name in ("a/1.tiff", "b/10.jpg", "b/2.PNG")]
    assert list(find_pictures([tmp_path, *named])) == [*inside, *named]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x.dib", "BMP"), ("x.pbm", "PPM")),
        *(("x.pgm", "PPM"), ("x.pnm", "PPM"), ("x.avif", "AVIF"), ("x.WebP", "WEBP")),
        *(("x", "PNG"), ("x.dat", "JPEG"), ("x.jpg_large", "JPEG"), ("x.png.tmp", "GIF")),
    ],
)
def test_pictures_of_any_suffix_are_found_and_read(tmp_path: Path, name: str, form: str) -> None:
    Image.new("1" if name.endswith("pbm") else "L", (9, 9)).save(tmp_path / name, form)
    assert found(tmp_path) == [name]
    assert read_image(tmp_path / name)[0].shape == (28, 28)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.heic", b"\0\0\0\x18ftypheic", "HEIC"),
        ("x.jpg", b"\0\0\0\x18ftypmif1", "HEIC"),
        ("x.pdf", b"%PDF-1.7", "PDF"),
        ("scan", b"%PDF-1.7", "PDF"),
        ("x.svg", b"<?xml version='1.0'?>\n<svg xmlns='a'>", "SVG"),
        ("x.jp2", b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        ("x.psd", b"8BPS", "Photoshop"),
        ("x.cr3", b"what a camera writes", ""),
    ],
)
def test_pictures_in_unsupported_formats_are_errors(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    assert sorted(found(tmp_path)) == sorted(["a.png", name])
    with pytest.raises(DigitNetError, match=f"none of PNG, .*{kind}"):
        read_image(tmp_path / name)


def test_files_of_operating_systems_are_not_pictures(tmp_path: Path) -> None:
    for name in ("__MACOSX/a.png", "Thumbs.db", "@eaDir/a.jpg", "$RECYCLE.BIN/a.png", "._a.png"):
        save(tmp_path / name)
    save(tmp_path / "a.png")
    assert found(tmp_path) == ["a.png"]


def test_every_page_of_a_tiff_is_a_picture(tmp_path: Path) -> None:
    """Thumbnails that some programs add are not pages."""
    small = Image.new("L", (4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    pages = [Image.new("L", (9, 9)), small, Image.new("L", (9, 9))]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    names = ["x.tif#page=1", "x.tif#page=3"]
    assert found(tmp_path) == names
    assert list(find_pictures([tmp_path / "x.tif"])) == [str(tmp_path / name) for name in names]
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[:-6])
    for path in find_pictures([tmp_path]):  # only the damaged page is an error
        if path.endswith("page=1"):
            assert read_image(path)[0].shape == (28, 28)


def test_a_file_may_be_named_like_a_page(tmp_path: Path) -> None:
    save(tmp_path / "x.png#page=2")
    assert read_image(f"{tmp_path}/x.png#page=2")[0].shape == (28, 28)


def test_links_to_folders_are_followed_without_cycles(tmp_path: Path) -> None:
    save(tmp_path / "away" / "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "away" / "back").symlink_to(tmp_path / "here")
    assert found(tmp_path / "here") == ["link/a.png"]


def test_a_folder_without_pictures_is_yielded_itself(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("P1 is no picture, nor is BM.")
    assert list(find_pictures([tmp_path, "x.png"])) == [str(tmp_path), "x.png"]
    with pytest.raises(DigitNetError, match="expected an image; received: a folder without pict"):
        read_image(tmp_path)


def test_an_impossible_file_name_does_not_stop_the_others(tmp_path: Path) -> None:
    impossible = str(tmp_path / ("a" * 300))
    assert list(find_pictures([impossible, "x.png"])) == [impossible, "x.png"]


@pytest.mark.parametrize("start", [b" " * 512, b"<!--" * 128, b"P5" + b"# \n" * 170, b"", b"P5"])
def test_detecting_the_kind_is_fast_for_any_content(start: bytes) -> None:
    assert kind_of(start) is None
