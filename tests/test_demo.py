"""The web page, in a real browser on a real server."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image
from time_limits import scaled
from web_page import MAX_SECONDS, RunningPage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DESKTOP, PHONE = (1280, 800), (390, 844)
FOUR = [[(0.35, 0.15), (0.25, 0.55), (0.75, 0.55)], [(0.62, 0.3), (0.6, 0.88)]]
SEVEN = [[(0.25, 0.2), (0.75, 0.18), (0.42, 0.87)]]
HINT = "Write on the pad: one digit or many, of any size."
EXAMPLES = {
    "Amount on a cheque": "1250",
    "Cells of a table": "3810462\n759216",
    "Numbers on ruled lines": "20743\n8506",
    "Number on a blackboard": "364",
}

pytestmark = pytest.mark.xdist_group("demo")  # one server for all of them

Strokes = Sequence[Sequence[tuple[float, float]]]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def open_page(served: RunningPage, browser: Any) -> Iterator[Open]:
    """Opens the page; it must load nothing from other hosts and log no error."""
    asked: list[str] = []
    logged: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_it(size: tuple[int, int] = DESKTOP, scheme: str = "light", **more: Any) -> Any:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                has_touch=size == PHONE,
                is_mobile=size == PHONE,
                **more,
            )
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(1000 * scaled(MAX_SECONDS))
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: logged.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: logged.append(str(error)))
            page.goto(served.address)
            return page

        yield open_it
    assert asked
    assert not [url for url in asked if not url.startswith((served.address, "data:"))]
    assert logged == []


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of one number, twice as high as wide."""
    photo = Image.new("RGB", (400, 800), (236, 232, 220))
    with Image.open(ROOT / "scripts" / "page.jpg") as page:
        photo.paste(page.crop((0, 0, 780, 108)).resize((390, 54)), (5, 350))
    path = tmp_path_factory.mktemp("photos") / "portrait.jpg"
    photo.save(path)
    return path


def points(page: Any, strokes: Strokes, left: float, top: float, side: float) -> Strokes:
    """Strokes in a square of the pad, given as fractions of its sides, as points of the page."""
    pad = page.locator("canvas").bounding_box()
    x0, y0 = pad["x"] + left * pad["width"], pad["y"] + top * pad["height"]
    side *= pad["height"]
    return [[(x0 + x * side, y0 + y * side) for x, y in stroke] for stroke in strokes]


def draw(page: Any, strokes: Strokes, *place: float) -> None:
    for stroke in points(page, strokes, *place):
        page.mouse.move(*stroke[0])
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*point, steps=6)
        page.mouse.up()


def touch(page: Any, strokes: Strokes, *place: float) -> None:
    fingers = page.context.new_cdp_session(page)
    for stroke in points(page, strokes, *place):
        for index, (x, y) in enumerate(stroke):
            kind = "touchMove" if index else "touchStart"
            fingers.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]}
            )
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def text_is(panel: Any, text: str) -> None:
    """Waits until a panel shows this text."""
    from playwright.sync_api import expect

    expect(panel.get_by_role("status")).to_have_text(
        text, timeout=1000 * scaled(MAX_SECONDS), use_inner_text=True
    )


def upload(page: Any, path: Path) -> None:
    page.get_by_label("Choose a picture").set_input_files(path)


def test_mouse_drawings_are_read(open_page: Open) -> None:
    page = open_page()
    panel = page.locator("#draw")
    text_is(panel, HINT)
    draw(page, FOUR, 0.1, 0.1, 0.5)
    draw(page, SEVEN, 0.55, 0.4, 0.4)
    text_is(panel, "47")
    pad = page.locator("canvas").bounding_box()
    boxes = [box.bounding_box() for box in panel.locator(".box").all()]
    assert boxes[0]["x"] + boxes[0]["width"] < pad["x"] + 0.55 * pad["width"] < boxes[1]["x"] + 60
    assert panel.get_by_role("listitem").count() == 10
    assert panel.get_by_alt_text("Digit 1, cut out and centred").is_visible()
    panel.get_by_role("button", name="7").click()
    panel.get_by_role("heading", name="Probabilities of digit 2").wait_for()
    middle = boxes[0]["x"] + boxes[0]["width"] / 2, boxes[0]["y"] + boxes[0]["height"] / 2
    page.mouse.click(*middle)  # on the 4 itself, where it draws nothing
    panel.get_by_role("heading", name="Probabilities of digit 1").wait_for()
    text_is(panel, "47")
    page.get_by_role("button", name="Clear").click()
    text_is(panel, HINT)
    assert panel.locator(".box").count() == 0
    draw(page, SEVEN, 0.3, 0.2, 0.6)  # at once, no tool to be chosen first
    text_is(panel, "7")


def test_finger_drawings_are_read(open_page: Open) -> None:
    page = open_page(PHONE, "dark")
    panel = page.locator("#draw")
    touch(page, SEVEN, 0.1, 0.1, 0.7)
    text_is(panel, "7")
    page.get_by_role("button", name="Undo").click()
    text_is(panel, HINT)
    touch(page, FOUR, 0.3, 0.1, 0.7)
    text_is(panel, "4")


@pytest.mark.parametrize(
    "strokes",
    [
        [[(0.5, 0.5)]],
        [[(0.13 * step, 0.2 + 0.6 * (step % 2)) for step in range(13)]],
        [[(0.1, 0.5), (0.9, 0.2), (0.1, 0.8), (0.9, 0.1), (0.2, 0.9), (0.9, 0.6), (0.1, 0.3)] * 2],
    ],
    ids=["dot", "zigzag", "scribble"],
)
def test_marks_that_are_not_digits_are_not_read(open_page: Open, strokes: Strokes) -> None:
    page = open_page()
    draw(page, strokes, 0.3, 0.2, 0.5)
    text_is(page.locator("#draw"), "No digit found.")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_table_beside_a_portrait_photo_is_visible(
    open_page: Open, portrait: Path, size: tuple[int, int]
) -> None:
    page = open_page(size)
    page.get_by_role("tab", name="Photo").click()
    panel = page.locator("#photo")
    camera = panel.get_by_text("Take a picture")
    assert camera.is_visible() == (size == PHONE)
    assert camera.locator("input").get_attribute("capture") == "environment"
    upload(page, portrait)
    panel.get_by_role("table").wait_for()
    assert panel.get_by_role("status").inner_text() == "20260714"
    picture = panel.get_by_alt_text("The picture that was read").bounding_box()
    assert picture["height"] <= 0.6 * size[1] + 1
    assert picture["height"] == pytest.approx(2 * picture["width"], rel=0.02)
    row = panel.get_by_role("table").get_by_role("button").first.bounding_box()
    assert row["y"] + row["height"] < size[1]
    assert panel.locator(".box").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_message_about_a_refused_file_disappears_with_the_next_file(
    open_page: Open, portrait: Path, tmp_path: Path
) -> None:
    page = open_page()
    page.get_by_role("tab", name="Photo").click()
    panel = page.locator("#photo")
    alert = panel.get_by_role("alert")
    broken, huge = tmp_path / "broken.jpg", tmp_path / "huge.jpg"
    broken.write_bytes(portrait.read_bytes()[:100])
    huge.write_bytes(bytes(20_000_001))
    upload(page, broken)
    panel.get_by_text("broken.jpg: expected an image; received: ").wait_for()
    upload(page, huge)
    panel.get_by_text("huge.jpg: expected at most 20 MB; received: more.").wait_for()
    assert "broken" not in alert.inner_text()
    file = page.evaluate_handle(
        """async () => {
            const dropped = new DataTransfer();
            const picture = await (await fetch("examples/blackboard.jpg")).blob();
            dropped.items.add(new File([picture], "dropped.jpg"));
            return dropped;
        }"""
    )
    page.dispatch_event("body", "drop", {"dataTransfer": file})
    text_is(panel, EXAMPLES["Number on a blackboard"])
    assert alert.inner_text() == ""


def test_examples_are_one_click_away(open_page: Open) -> None:
    page = open_page()
    page.get_by_role("tab", name="Photo").click()
    examples = page.get_by_role("group", name="Examples").get_by_role("button")
    assert examples.count() == len(EXAMPLES)
    for name, text in EXAMPLES.items():
        page.get_by_role("button", name=name).click()
        text_is(page.locator("#photo"), text)


def test_the_page_can_be_used_with_the_keyboard(open_page: Open) -> None:
    page = open_page()

    def focused() -> str:
        """The element with the focus, which must be visible."""
        focus = page.locator(":focus")
        outlined = "element => getComputedStyle(element.closest('.file') ?? element).outlineWidth"
        assert focus.evaluate(outlined) == "3px"
        return str(
            focus.evaluate("e => e.labels?.[0]?.innerText || e.innerText || e.children[0].alt")
        )

    def press(key: str) -> str:
        page.keyboard.press(key)
        return focused()

    assert [press("Tab") for _ in range(3)] == ["Draw", "Undo", "Clear"]
    assert press("Shift+Tab") == "Undo"
    assert press("Shift+Tab") == "Draw"
    assert press("ArrowRight") == "Photo"
    assert page.get_by_role("tabpanel", name="Photo").is_visible()
    assert not page.get_by_role("tabpanel", name="Draw").is_visible()
    assert [press("Tab") for _ in range(2)] == ["Choose a picture", "Amount on a cheque"]
    page.keyboard.press("Enter")
    text_is(page.locator("#photo"), "1250")
    assert [press("Shift+Tab") for _ in range(3)] == ["0", "5", "2"]
    page.keyboard.press("Space")
    page.get_by_role("heading", name="Probabilities of digit 2").wait_for()
    assert page.locator(":focus").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_is_accessible(open_page: Open, size: tuple[int, int], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(size, scheme, bypass_csp=True)  # axe is not part of the page

    def violations() -> list[str]:
        found = Axe().run(page).response["violations"]
        return [f"{each['impact']}: {each['id']}, {each['nodes'][0]['html']}" for each in found]

    draw(page, SEVEN, 0.3, 0.2, 0.6)
    text_is(page.locator("#draw"), "7")
    assert violations() == []
    page.get_by_role("tab", name="Photo").click()
    assert violations() == []
    page.get_by_role("button", name="Cells of a table").click()
    page.locator("#photo").get_by_role("table").wait_for()
    assert violations() == []
