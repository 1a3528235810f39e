"""Any input works or is refused in one line that names it.

Never another exception, a crash, ten seconds, or a gigabyte. Each test has a short form and a long
one with many more cases; the cases are the same each time.
"""

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from environments import without_backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openers import mutated
from PIL import Image
from test_data import idx, save_class_folders, save_idx_folder, save_npz
from test_layouts import save_parquet, table
from test_serving import metadata
from tf_serving import http_server
from time_limits import at_most, scaled
from v2_server import encoded

import keras_digitnet as kd
from keras_digitnet.artifacts import RunFolder, read_json
from keras_digitnet.config import ModelConfig, TrainConfig
from keras_digitnet.data import Dataset, load_dataset
from keras_digitnet.data.idx import read_idx
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import read_image
from keras_digitnet.reading.answers import predict_files
from keras_digitnet.reading.inference import Classifier, class_names

MAX_SECONDS = 10
MAX_BYTES = 1 << 30

ANY_BYTES = st.binary(max_size=200)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def cases(short: int, long: int) -> pytest.MarkDecorator:
    """Parametrizes a test with a few cases and, marked `long`, with many."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.long)])


def for_each(values: st.SearchStrategy[Any], count: int, act: Callable[[Any], None]) -> None:
    """Calls `act` on a fixed random sample of the values."""
    steady = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def act_in_time(value: Any) -> None:
        with at_most(MAX_SECONDS):
            act(value)

    steady(given(values)(act_in_time))()


def works_or_reports(named: object, act: Callable[..., Any], *arguments: Any) -> None:
    try:
        act(*arguments)
    except DigitNetError as error:
        assert str(named) in str(error)
        assert "\n" not in str(error)


def any_content(
    path: Path, contents: st.SearchStrategy[bytes], count: int, named: object, where: Path
) -> None:
    """Loads the data set `where` with each of the contents in one of its files."""

    def act(content: bytes) -> None:
        path.write_bytes(content)
        works_or_reports(named, load_dataset, str(where))

    for_each(contents, count, act)


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    return st.integers(0, 1 << 30).map(lambda number: mutated(content, number)) | ANY_BYTES


@pytest.fixture(scope="module")
def nano() -> Classifier:
    return kd.load(ROOT / "saved_models" / "nano" / "model.onnx")


# Data sets


@pytest.mark.parametrize("suffix", ["", ".gz"])
@cases(30, 1000)
def test_idx_files(tmp_path: Path, suffix: str, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    folder = save_idx_folder(tmp_path / "idx", images, np.arange(30) % 3, suffix=suffix)
    path = folder / f"train-images-idx3-ubyte{suffix}"
    content = idx(images)
    header = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 30), min_size=3, max_size=3)
    lies = header.map(lambda sizes: content[:4] + np.array(sizes, ">u4").tobytes() + content[16:])

    def act(mutation: bytes) -> None:
        path.write_bytes(mutation)
        works_or_reports(folder, load_dataset, str(folder))
        works_or_reports(path, read_idx, path, 3)

    inside = mutations(content) | lies
    if suffix:
        for_each(inside.map(gzip.compress) | mutations(gzip.compress(content)), count, act)
    else:
        for_each(inside, count, act)


@cases(30, 1000)
def test_npz_files(tmp_path: Path, count: int) -> None:
    path = save_npz(tmp_path / "mine.npz")
    content = path.read_bytes()
    arrays = hnp.arrays(
        hnp.scalar_dtypes() | hnp.array_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        fill=st.nothing(),
    )
    names = st.sampled_from(["x_train", "y_train", "x_test", "y_test"])

    def act(changed: bytes | tuple[str, np.ndarray]) -> None:
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            save_npz(path, **{changed[0]: changed[1]})
        works_or_reports(path, load_dataset, str(path))

    for_each(mutations(content) | st.tuples(names, arrays), count, act)


@cases(15, 300)
def test_class_folders(tmp_path: Path, count: int) -> None:
    folder = save_class_folders(tmp_path / "data", "01", count=6)
    path = folder / "1" / "3.png"
    any_content(path, mutations(path.read_bytes()), count, folder, folder)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@cases(15, 300)
def test_tables(tmp_path: Path, digits: Dataset, suffix: str, count: int) -> None:
    few = digits.train[:30]
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        save_parquet(path, few)
        content = path.read_bytes()
    else:
        content = table(few)
    pack = gzip.compress if suffix.endswith("gz") else bytes
    contents = mutations(content).map(pack)
    if pack is gzip.compress:
        contents |= mutations(pack(content))
    any_content(path, contents, count, path, path)


@cases(15, 300)
def test_the_names_of_emnist(tmp_path: Path, count: int) -> None:
    images = np.zeros((30, 28, 28), np.uint8)
    folder = save_idx_folder(tmp_path / "e", images, np.arange(30) % 3, prefix="emnist-x-")
    path = folder / "emnist-x-mapping.txt"
    any_content(path, mutations(b"0 48\n1 49\n2 50\n"), count, path, folder)


# Pictures


FORMS = ("png", "jpg", "gif", "tiff", "bmp", "webp", "ppm", "avif")
SIDES = st.sampled_from([1, 2, 3, 7, 28, 29, 100])


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"]))
    width, height = draw(SIDES), draw(SIDES)
    random = np.random.default_rng(draw(st.integers(0, 9)))
    pixels = random.integers(0, 256, (height, width), np.uint8)
    pixels //= draw(st.sampled_from([1, 255]))
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


@cases(40, 1500)
def test_pictures_of_every_kind(tmp_path: Path, count: int, nano: Classifier) -> None:
    def act(drawn: tuple[Image.Image, str, bool]) -> None:
        picture, suffix, animated = drawn
        path = tmp_path / f"x.{suffix}"
        try:
            more = {"save_all": True, "append_images": [picture] * 2} if animated else {}
            picture.save(path, **more)
        except (OSError, ValueError, KeyError):  # some forms hold only some modes
            return
        for way in (read_image, kd.normalize_digit, lambda path: kd.read(path, nano)):
            works_or_reports(path, way, path)
        (answer,) = predict_files(nano, [str(path)])
        assert bool(answer.label) != bool(answer.error)

    for_each(st.tuples(pictures(), st.sampled_from(FORMS), st.booleans()), count, act)


@cases(40, 1000)
def test_pictures_that_are_arrays(count: int, nano: Classifier) -> None:
    dtypes = hnp.scalar_dtypes() | hnp.array_dtypes() | st.just(np.dtype(object))
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)

    def act(pixels: np.ndarray) -> None:
        for way in (kd.normalize_digit, lambda array: kd.read(array, nano)):
            works_or_reports("picture: ", way, pixels)
        works_or_reports("images: ", nano.predict, pixels)

    few = st.integers(0, 255) | st.floats(0, 1) | st.just(float("nan")) | st.none()
    objects = shapes.map(lambda shape: np.full(shape, None, object))
    digits = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 255))
    plain = st.lists(st.lists(few, min_size=1, max_size=3), min_size=1, max_size=3)
    ragged = plain.map(lambda rows: np.array(rows, object))
    for_each(hnp.arrays(dtypes, shapes) | objects | ragged | digits, count, act)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "AVIF"])
@cases(12, 400)
def test_damaged_pictures(tmp_path: Path, form: str, count: int) -> None:
    path = tmp_path / "x.png"
    picture = Image.open(ROOT / "scripts" / "seven.png").convert("L").resize((90, 90))
    picture.save(path, form)
    opened("picture", path, count)


# Configuration


def mutated_json(values: Any) -> st.SearchStrategy[Any]:
    """The JSON object with a value changed, removed or added; or other JSON."""
    keys = st.sampled_from(sorted(values))
    return st.one_of(
        ANY_JSON,
        st.tuples(keys, ANY_JSON).map(lambda change: {**values, change[0]: change[1]}),
        keys.map(lambda gone: {key: values[key] for key in values if key != gone}),
        st.tuples(st.text(), ANY_JSON).map(lambda change: {**values, change[0]: change[1]}),
    )


@pytest.mark.parametrize("record", [ModelConfig, TrainConfig])
@cases(40, 600)
def test_configurations(record: type[ModelConfig | TrainConfig], count: int) -> None:
    values = record().to_json()
    if record is TrainConfig:
        values["model"] = ModelConfig().to_json()

    def act(changed: Any) -> None:
        works_or_reports("expected ", record.from_json, json.loads(json.dumps(changed)))

    for_each(mutated_json(values), count, act)


@cases(40, 600)
def test_the_config_beside_a_model(tmp_path: Path, count: int) -> None:
    path = tmp_path / "config.json"
    good = json.dumps(read_json(ROOT / "saved_models" / "nano" / "config.json")).encode()
    names = st.lists(ANY_JSON, min_size=10, max_size=10).map(lambda names: {"classes": names})
    changed = (names | ANY_JSON).map(lambda value: json.dumps(value).encode())

    def act(content: bytes) -> None:
        path.write_bytes(content)
        works_or_reports(path, class_names, tmp_path, 10)
        works_or_reports(path, RunFolder(tmp_path).read_config)

    for_each(mutations(good) | changed, count, act)


@cases(40, 600)
def test_runs_that_are_resumed(tmp_path: Path, count: int, backend: str) -> None:
    """Changes their settings and history; there is no matching checkpoint."""
    from keras_digitnet import training
    from keras_digitnet.training.history import read_history

    saved = read_json(ROOT / "saved_models" / "nano" / "config.json")
    saved["backend"] = backend
    saved["train"]["data"] = "/nowhere"
    folder = RunFolder(tmp_path)
    folder.checkpoints_dir.mkdir()
    folder.checkpoint_path(2).touch()
    header = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds\n"
    history = (header + "1,1,1,1,1,1,1\n2,1,1,1,1,1,1\n").encode()
    train = mutated_json(saved["train"]).map(lambda train: {**saved, "train": train})

    def act(changed: tuple[Any, bytes]) -> None:
        folder.config_path.write_text(json.dumps(changed[0]))
        folder.history_path.write_bytes(changed[1])
        works_or_reports(tmp_path, training.resume, tmp_path)
        works_or_reports(folder.history_path, read_history, folder)

    for_each(st.tuples(mutated_json(saved) | train, mutations(history)), count, act)


# Servers


SERVED: dict[str, tuple[Any, Any]] = {
    "/v1/models/digitnet": (
        metadata(),
        {"outputs": {"probabilities": [[0.1] * 10] * 2, "label": [0, 1]}},
    ),
    "/v2/models/digitnet": (
        {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]},
        encoded(
            {"probabilities": np.full((2, 10), 0.1, np.float32), "label": np.array([[0], [1]])},
            binary=False,
        ),
    ),
}


@pytest.mark.parametrize("path", SERVED)
@cases(30, 500)
def test_answers_of_a_server(path: str, count: int) -> None:
    described, good = SERVED[path]
    replies: dict[str, Any] = {}

    def answer(method: str, path: str, body: bytes) -> Any:
        return 200, replies[method]

    def mutated_json_inside(value: Any) -> st.SearchStrategy[Any]:
        """Changes one value at any depth."""
        text = json.dumps(value)
        places = [match.span() for match in re.finditer(r'"[^"]*"(?!:)|[\d.]+', text)]

        def put(change: tuple[tuple[int, int], Any]) -> bytes:
            (start, end), other = change
            return (text[:start] + json.dumps(other) + text[end:]).encode()

        return st.tuples(st.sampled_from(places), ANY_JSON).map(put) | mutations(text.encode())

    with http_server(answer) as server:
        address = server + path

        def act(replied: tuple[Any, Any]) -> None:
            replies["GET"], replies["POST"] = replied

            def ask() -> None:
                answers = kd.load(address).predict(np.zeros((2, 28, 28), np.uint8))
                assert np.isfinite(answers.probabilities).all()

            works_or_reports(address, ask)

        both = st.tuples(mutated_json_inside(described), st.just(good)) | st.tuples(
            st.just(described), mutated_json_inside(good) | ANY_JSON
        )
        for_each(both, count, act)


# Models: parsed by native code


def opened(opener: str, path: Path, count: int = 0) -> tuple[dict[str, Any], str]:
    """Opens the file or its mutations in a separate process; returns result and output."""
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "openers.py"), opener, str(path), str(count)],
        env=without_backend() | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=scaled(60 + MAX_SECONDS * count),
        check=False,
    )
    assert child.returncode == 0, f"{child.stdout[-300:]}\n{child.stderr[-3000:]}"
    result = json.loads(child.stdout.splitlines()[-1])
    assert result["slowest"] < MAX_SECONDS or result["slowest"] < scaled(MAX_SECONDS)
    return result, child.stdout


@pytest.mark.parametrize(
    ("opener", "name", "count"),
    [
        pytest.param(opener, name, count, marks=[pytest.mark.long] * long)
        for opener, name, counts in (
            ("model", "model.onnx", (30, 800)),
            ("model", "model.tflite", (30, 800)),
            ("model", "model_int8.tflite", (30, 800)),
            ("model", "model.xml", (10, 150)),
            ("weights", "model.bin", (3, 20)),
            ("model", "model.keras", (6, 100)),
            ("servable", "digitnet/1/saved_model.pb", (3, 100)),
            ("servable", "digitnet/1/variables/variables.index", (3, 50)),
        )
        for count, long in zip(counts, (False, True), strict=True)
    ],
)
def test_damaged_models(
    exported: Path, trained: Path, tmp_path: Path, opener: str, name: str, count: int
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(exported, folder)
    shutil.copy(trained / "model.keras", folder)
    opened(opener, folder / name, count)


# Decompression bombs


def png(width: int, height: int, bits: int, colour: int) -> bytes:
    """A black PNG, compressed row by row to save memory."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * bits * channels + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = chunk(b"IHDR", sizes + bytes((bits, colour, 0, 0, 0)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def a_picture(mode: str, form: str, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, form)
    return file.getvalue()


def idx_bomb() -> bytes:
    file = io.BytesIO()
    with gzip.open(file, "wb", compresslevel=1) as packed:
        packed.write(b"\0\0\x08\x03" + np.array([4 << 10, 1 << 10, 1 << 10], ">u4").tobytes())
        for _ in range(4 << 10):
            packed.write(bytes(1 << 20))
    return file.getvalue()


def npz_bomb() -> bytes:
    file = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (3 << 20, 32, 32)}
    )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header.getvalue())
                for _ in range(3 << 10 if name == "x_train" else 0):
                    member.write(bytes(1 << 20))
    return file.getvalue()


def csv_bomb() -> bytes:
    file = io.BytesIO()
    rows = b"0" + b",0" * 784 + b"\n"
    with gzip.open(file, "wb", compresslevel=1) as packed:
        for _ in range(1 << 10):
            packed.write(rows * 1000)
    return file.getvalue()


def keras_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(ROOT / "saved_models" / "nano" / "model.keras") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        with archive.open("assets/zeros", "w") as member:
            for _ in range(1 << 10):
                member.write(bytes(1 << 20))
    return file.getvalue()


BOMBS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "a long line": ("picture", "x.png", lambda: png(60_000, 1, 8, 0)),
    "a long column": ("picture", "x.png", lambda: png(1, 60_000, 8, 0)),
    "one bit a pixel": ("picture", "x.png", lambda: png(30_000, 30_000, 1, 0)),
    "just accepted": ("picture", "x.png", lambda: png(8000, 8000, 8, 6)),
    "sixteen bits": ("picture", "x.png", lambda: png(8000, 8000, 16, 4)),
    "colours of print": ("picture", "x.jpg", lambda: a_picture("CMYK", "JPEG", 8000, 8000)),
    "a palette": ("picture", "x.gif", lambda: a_picture("P", "GIF", 8000, 8000)),
    "a large tiff": ("picture", "x.tiff", lambda: a_picture("1", "TIFF", 20_000, 20_000)),
    "idx": ("data", "train-images-idx3-ubyte.gz", idx_bomb),
    "npz": ("data", "x.npz", npz_bomb),
    "csv": ("data", "train.csv.gz", csv_bomb),
    "keras": ("model", "x.keras", keras_bomb),
}
QUICK = ("a long line", "a long column", "idx")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory's peak in /proc")
@pytest.mark.parametrize(
    "bomb",
    [pytest.param(bomb, marks=[pytest.mark.long] * (bomb not in QUICK)) for bomb in BOMBS],
)
def test_decompression_bombs(tmp_path: Path, bomb: str) -> None:
    opener, name, make = BOMBS[bomb]
    path = tmp_path / name
    path.write_bytes(make())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(10)))
    assert opened(opener, path)[0]["grown"] < MAX_BYTES


# Code in data


def pickles_allowed(text: str) -> list[str]:
    return re.findall(
        r"allow_pickle(?!\s*=\s*False\b).*|(?<!json\.)\b(?:pickle|joblib|dill)\b(?!\.externals\.loky).*",
        text,
    )


def test_nothing_is_unpickled() -> None:
    """NumPy files may hold pickles, which must not be loaded."""
    assert pickles_allowed("np.load(path, allow_pickle=True)")
    assert not pickles_allowed("np.load(path, allow_pickle=False)")
    assert pickles_allowed("joblib.load(path)")
    # It pickles what a process sends to its own workers, not files.
    assert not pickles_allowed("from joblib.externals.loky import ProcessPoolExecutor")
    for folder in ("keras_digitnet", "scripts"):
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths
        for path in paths:
            text = path.read_text()
            assert not pickles_allowed(text), path
            for call in re.findall(r"\bnp\.load\([^\n]*", text):
                assert "allow_pickle=False" in call, path
