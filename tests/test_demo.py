"""The web page, in a real browser on a real server."""

import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import patience
from PIL import Image, ImageDraw
from web_page import MOST_SECONDS, ask, running_page, started_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SEVEN = [(0.25, 0.2), (0.75, 0.18), (0.42, 0.87)]

pytestmark = pytest.mark.xdist_group("demo")  # one server for them all


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_page(ends_within=30) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The page, opened; it must ask no other machine for anything."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(1000 * patience(MOST_SECONDS))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("canvas")
    yield page
    page.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


@pytest.fixture
def number(tmp_path: Path) -> Path:
    """A picture of two drawn sevens."""
    sheet = Image.new("L", (560, 280), "white")
    for left in (0, 240):
        points = [(left + 280 * x, 280 * y) for x, y in SEVEN]
        ImageDraw.Draw(sheet).line(points, fill="black", width=16)
    sheet.save(tmp_path / "number.png")
    return tmp_path / "number.png"


def test_a_drawn_stroke_becomes_its_digit_and_goes_with_it(page: Any) -> None:
    canvas = page.locator("canvas").first
    page.wait_for_timeout(1000 * patience(1))  # the canvas scales itself to its place
    box = canvas.bounding_box()
    left, top = box["x"] + box["width"] / 2 - 130, box["y"] + box["height"] / 2 - 130
    points = [(left + 260 * x, top + 260 * y) for x, y in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()
    label = page.get_by_test_id("label-output-value")
    label.wait_for()
    assert label.inner_text().strip() == "7"
    assert page.get_by_test_id("7-confidence-set").count() == 1  # a bar
    page.get_by_label("Clear canvas").first.click()
    label.wait_for(state="detached")


def test_an_example_is_one_click_away(page: Any) -> None:
    page.locator(".gallery-item").nth(1).click()
    label = page.get_by_test_id("label-output-value")
    label.wait_for()
    assert label.inner_text().strip() == "4"


def test_an_upload_becomes_its_number_and_a_broken_one_a_message(
    page: Any, number: Path, tmp_path: Path
) -> None:
    page.get_by_role("tab", name="Photo").click()
    broken = tmp_path / "broken.png"
    broken.write_bytes(number.read_bytes()[:100])
    upload = page.locator("input[type=file][accept='image/*']").last
    upload.set_input_files(broken)
    page.get_by_text("broken.png: expected an image; received: ").wait_for()
    page.get_by_label("Clear").locator("visible=true").first.click()
    page.locator("input[type=file][accept='image/*']").last.set_input_files(number)
    text = page.locator("textarea:visible")
    deadline = time.monotonic() + patience(MOST_SECONDS)
    while text.input_value() != "77" and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert text.input_value() == "77"
    assert page.get_by_role("gridcell").count() >= 2 or page.locator("td").count() >= 2


def test_the_http_interface_of_the_readme(address: str, number: Path) -> None:
    picture, text, table = ask(address, number)
    with urllib.request.urlopen(picture["url"], timeout=patience(MOST_SECONDS)) as annotated:
        assert Image.open(annotated).size == Image.open(number).size
    assert text == "77"
    assert len(table["data"]) == 2


def test_a_taken_port_is_one_message() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started_page(taken.getsockname()[1]) as server:
            _, said = server.communicate(timeout=patience(MOST_SECONDS))
    assert server.returncode == 2
    assert said.startswith("Error: 127.0.0.1:")
    assert said.count("\n") == 1
