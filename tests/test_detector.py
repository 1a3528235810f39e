"""The reader's network, its targets, and decoding of its outputs."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_digitnet.config import PRESETS, ReaderConfig
from keras_digitnet.formats.runtime import READER_OUTPUTS, Runtime
from keras_digitnet.networks import detector
from keras_digitnet.networks.blocks import count_parameters
from keras_digitnet.pages import Page
from keras_digitnet.pages.targets import targets
from keras_digitnet.reading import finding
from keras_digitnet.reading.finding import Character, Reader

pytestmark = pytest.mark.backends

TINY_READER = ReaderConfig(widths=(8, 12), depths=(1, 1, 1), expansion=2)


@pytest.fixture(scope="module")
def page() -> Page:
    boxes = np.array([(20, 10, 36, 34), (40, 12, 46, 36), (100, 4, 130, 40)], np.float32)
    ignored = np.array([(60, 10, 80, 30)], np.float32)
    return Page(np.zeros((48, 192), np.uint8), boxes, np.array([3, 1, 8]), ignored)


def perfect(page: Page, classes: int = 10) -> np.ndarray:
    """Cells that match the page's targets exactly."""
    target = targets(page)
    cells = np.zeros((*target.shape[:2], 5 + classes), np.float32)
    cells[..., 0] = np.where(target[..., 0] > 0.999, 8.0, -8.0)
    cells[..., 1:5] = target[..., 4:]
    rows, columns = np.nonzero(target[..., 2] > 0)
    cells[rows, columns, 5 + target[rows, columns, 3].astype(int)] = 12.0
    return cells


@pytest.mark.parametrize("shape", [(48, 192), (8, 8), (41, 59), (3, 200)])
def test_the_network_accepts_pages_of_any_size(shape: tuple[int, int]) -> None:
    model = detector.build_detection_model(detector.build_detector(TINY_READER))
    found = model(np.zeros((2, *shape, 1), np.uint8))
    height, width = (-(-side // 4) for side in shape)
    assert tuple(found["presence"].shape) == (2, height, width)
    assert tuple(found["boxes"].shape) == (2, height, width, 4)
    assert tuple(found["probabilities"].shape) == (2, height, width, 10)
    assert np.allclose(ops.convert_to_numpy(ops.sum(found["probabilities"], axis=-1)), 1, atol=1e-5)


def test_the_preset_has_the_documented_parameters() -> None:
    preset = PRESETS["reader"]
    assert isinstance(preset.model, ReaderConfig)
    assert count_parameters(detector.build_detector(preset.model)) == preset.parameters


def test_the_loss_is_nearly_zero_only_for_perfect_predictions(page: Page) -> None:
    loss = detector.DetectionLoss()
    wanted = targets(page)[None]

    def cost(cells: np.ndarray) -> float:
        return float(loss(ops.convert_to_tensor(wanted), ops.convert_to_tensor(cells[None])))

    right = perfect(page)
    assert cost(right) < 1e-3
    row, column = (int(value) for value in np.argwhere(wanted[0, ..., 0] > 0.999)[0])
    for channel, value in ((0, -8.0), (1, 1.5), (4, 1.0), (5 + 4, 20.0)):
        wrong = right.copy()
        wrong[row, column, channel] = value
        assert cost(wrong) > 0.02, channel
    ghost = right.copy()
    ghost[2, 40, 0] = 8.0  # far from every character
    assert cost(ghost) > 0.5
    unasked = right.copy()
    unasked[5, 17, 0] = 8.0  # in a cell that the loss ignores
    assert cost(unasked) == pytest.approx(cost(right))


def test_accuracy_counts_characters_that_are_found_and_read(page: Page) -> None:
    accuracy = detector.CharacterAccuracy(name="accuracy")
    cells, wanted = perfect(page), targets(page)
    row, column = (int(value) for value in np.argwhere(wanted[..., 0] > 0.999)[0])
    cells[row, column, 0] = -3.0
    accuracy.update_state(ops.convert_to_tensor(wanted[None]), ops.convert_to_tensor(cells[None]))
    assert float(accuracy.result()) == pytest.approx(2 / 3)


def test_targets_can_be_decoded(page: Page) -> None:
    """Encodes boxes as targets and decodes them by the network's last step."""
    cells = keras.Input((None, None, 15))
    found = detector.build_detection_model(keras.Model(cells, cells))(perfect(page)[None])
    arrays = {name: ops.convert_to_numpy(value) for name, value in found.items()}
    peaks = arrays["presence"][0] > 0.5
    boxes, labels = arrays["boxes"][0][peaks], arrays["probabilities"][0][peaks].argmax(axis=1)
    order = np.argsort(boxes[:, 0])
    assert np.allclose(boxes[order], page.boxes, atol=1e-3)
    assert labels[order].tolist() == page.labels.tolist()


def test_centred_features_give_the_same_answers() -> None:
    keras.utils.set_random_seed(0)
    model = detector.build_detector(ReaderConfig(widths=(8, 8), depths=(1, 1, 1)))
    norm = model.get_layer("head_norm")
    gamma, beta = norm.get_weights()
    norm.set_weights([gamma, beta + 3])
    pages = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 1), np.uint8)
    before = model.predict(pages, verbose=0)
    detector.centre_features(model, pages)
    assert np.abs(model.predict(pages, verbose=0) - before).max() < 1e-4
    features = keras.Model(model.input, norm.output).predict(pages, verbose=0)
    assert np.abs(np.asarray(features).mean(axis=(0, 1, 2))).max() < 1e-5


def test_a_training_step_reduces_the_loss_and_the_model_can_be_saved(
    page: Page, tmp_path: object
) -> None:
    keras.utils.set_random_seed(0)
    model = detector.build_detector(TINY_READER)
    model.compile(
        keras.optimizers.AdamW(1e-2),
        detector.DetectionLoss(),
        metrics=[detector.CharacterAccuracy(name="accuracy")],
    )
    image = np.full((4, 48, 192, 1), 200, np.uint8)
    for left, top, right, bottom in page.boxes.astype(int):
        image[:, top:bottom, left:right] = 30
    wanted = np.repeat(targets(page)[None], 4, axis=0)
    before = model.evaluate(image, wanted, verbose=0)[0]
    model.fit(image, wanted, epochs=40, verbose=0)
    assert model.evaluate(image, wanted, verbose=0)[0] < 0.5 * before
    path = f"{tmp_path}/model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert np.allclose(again.predict(image, verbose=0), model.predict(image, verbose=0), atol=1e-5)


# Decoding, without the network


def character(left: float, top: float, right: float, bottom: float) -> Character:
    return Character((left, top, right, bottom), 0.9, np.zeros(10))


@pytest.mark.parametrize(
    "shape", [(64, 256), (28, 28), (8, 8), (20, 3000), (3000, 20), (3000, 4000)]
)
def test_scales_cover_all_sizes_from_the_smallest_to_the_whole_picture(
    shape: tuple[int, int],
) -> None:
    scales = finding.scales(shape)
    fills = min(shape[0], 4 * shape[1])
    smallest = max(8, max(shape) / 80)
    for height in np.geomspace(min(smallest, fills), fills, 40):
        assert any(10.99 <= height * scale <= 41 for scale in scales), height
    pixels = sum(shape[0] * shape[1] * scale**2 for scale in scales)
    assert pixels < 2e6  # more would take too long


def test_boxes_of_the_same_character_are_merged_and_neighbours_kept() -> None:
    boxes = np.array([(0, 0, 20, 30), (1, 1, 20, 31), (6, 2, 12, 26), (19, 0, 38, 30)], float)
    same, inside = finding._overlaps(boxes)
    assert same[0].tolist() == [True, True, False, False]
    assert finding._suppress_non_maxima(np.array([0.9, 0.8, 0.6, 0.7]), same | inside) == [0, 3]


def test_presence_is_combined_over_the_scales_that_show_a_character() -> None:
    scales = np.array([0.5, 1.0, 2.0])
    # Two scales find the first. Two could find the second, but only one does. The third is so high
    # that only one scale can find it.
    boxes = np.array([(0, 0, 12, 15), (1, 0, 12, 15), (50, 0, 60, 15), (90, 0, 120, 50)], float)
    presence, look = np.array([0.9, 0.7, 0.9, 0.9]), np.array([0, 1, 1, 0])
    same, _ = finding._overlaps(boxes)
    averaged = finding._averaged_presence(boxes, presence, look, scales, same)
    assert averaged == pytest.approx([0.8, 0.35, 0.45, 0.9])


DOT = 255  # value of a character's centre in `dots`


def dots(pages: np.ndarray) -> tuple[np.ndarray, ...]:
    """A fake network: each pixel of value `DOT` is the centre of a 16x24 character."""
    rows, columns = (-(-side // 4) for side in pages.shape[1:3])
    presence = np.zeros((1, rows, columns), np.float32)
    boxes = np.zeros((1, rows, columns, 4), np.float32)
    for row, column in zip(*np.nonzero(pages[0, ..., 0] == DOT), strict=True):
        presence[0, row // 4, column // 4] = 1
        boxes[0, row // 4, column // 4] = (column - 8, row - 12, column + 8, row + 12)
    return presence, boxes, np.full((1, rows, columns, 10), 0.1, np.float32)


def test_a_canvas_of_any_size_is_read_in_tiles_of_one_size() -> None:
    parts = []

    def compute(pages: np.ndarray) -> tuple[np.ndarray, ...]:
        parts.append(pages.shape)
        return dots(pages)

    reader = Reader(Runtime("dots", compute, 10, READER_OUTPUTS))
    page = np.zeros((1, 1100, 3000, 1), np.uint8)
    middles = [(40, 20), (500, 880), (900, 928), (1000, 2000), (1060, 2970)]
    for row, column in middles:
        page[0, row, column] = DOT
    boxes, presence, _ = reader._at_scale(page, 1.0, (1100, 3000))
    found = {(round(box[1] + box[3]) // 2 + 12, round(box[0] + box[2]) // 2 + 12) for box in boxes}
    assert len(presence) == len(middles)
    assert found == set(middles)
    assert max(side for shape in parts for side in shape) <= 1024


def test_a_tight_crop_is_read_again_with_plain_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network finds nothing if lines reach the canvas's edge, as a cell's border does."""
    monkeypatch.setattr(finding, "PRESENT", 0.5)  # only one scale shows a dot
    margins = []

    def compute(pages: np.ndarray) -> tuple[np.ndarray, ...]:
        goes_on = bool((pages[0, 0] != pages[0, 0, 0]).any())
        margins.append(goes_on)
        return dots(0 * pages if goes_on else pages)

    reader = Reader(Runtime("close", compute, 10, READER_OUTPUTS))
    picture = np.zeros((24, 60), np.uint8)
    picture[:, 30] = 100  # a stroke from edge to edge
    picture[12, 20] = DOT
    assert len(reader.find(picture)) == 1
    assert margins == sorted(margins, reverse=True)
    margins.clear()
    picture[:, 30] = 0
    assert len(reader.find(picture)) == 1
    assert not any(margins)
    assert len(margins) == len(finding.scales(picture.shape))  # read once per scale


def test_lines_are_read_from_the_top_and_from_the_left() -> None:
    first = [character(x, 10 + y, x + 10, 30 + y) for x, y in ((5, 0), (20, 3), (40, 9), (60, 14))]
    low = character(75, 32, 82, 45)  # a small 0 beside the others
    second = [character(x, 60, x + 10, 80) for x in (0, 30)]
    lines = finding.in_lines([*second, low, *first])
    assert [[c.box[0] for c in line] for line in lines] == [[5, 20, 40, 60, 75], [0, 30]]
