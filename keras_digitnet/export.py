"""A trained model to the forms that others run; each is loaded again before it counts."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_digitnet import runtimes
from keras_digitnet.artifacts import (
    SERVABLE_NAME,
    atomic_write,
    publish_version,
    read_json,
    temporary_beside,
)
from keras_digitnet.config import export_kinds
from keras_digitnet.data import Dataset, is_at_hand, load_dataset
from keras_digitnet.environment import import_extra, suppress_native_stderr
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.finding import canvas
from keras_digitnet.inference import class_names, find_keras_file
from keras_digitnet.model import IMAGE_SHAPE
from keras_digitnet.written_lines import write_line

logger = logging.getLogger(__name__)

# The most that a float32 probability may differ from the Keras model's, and a side of a box, which
# is a number of pixels.
TOLERANCE = 1e-5
BOX_TOLERANCE = 1e-2
# The most that int8 may add to the mistakes, as a share of the images. Of fewer images than these
# chance moves it by more, and those count of which the Keras model is so sure.
INT8_COST = 1e-3
_ENOUGH_IMAGES = 10_000
_SURE = 0.9

_BATCH = 500
_PAGES = 32
_CALIBRATION_IMAGES = 512
_EXTRAS = {
    "onnx": {"onnx": "onnx", "tf2onnx": "onnx"},
    "litert": {"ai_edge_litert.interpreter": "litert"},
    "litert int8": {"ai_edge_quantizer": "litert", "ai_edge_litert.interpreter": "litert"},
    "openvino": {"openvino": "openvino"},
}


@dataclass(frozen=True)
class Artifact:
    """One exported model and how it compares with the Keras model.

    Attributes:
        format: One of `EXPORT_FORMATS`, or `litert int8`.
        path: The file, or the folder of the SavedModel's version.
        size: Bytes, all files of it together.
        compared_on: The data set whose images it was compared on.
        images: How many; for a reader, pages.
        difference: The largest difference of a probability or presence.
        same_labels: Images to which both give the same label; for a reader,
            pages on which both find the same characters.
    """

    format: str
    path: Path
    size: int
    compared_on: str
    images: int
    difference: float
    same_labels: int

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Model:
    """A classifier that is exported, and what every artifact is compared with.

    Attributes:
        path: The `.keras` file.
        inference: The network as it is deployed.
        classes: Their names, if there are any.
        dataset: The images that it is compared on.
        batches: Inputs, a few at a time.
        answers: The Keras model's outputs for each of them.
    """

    path: Path
    inference: keras.Model
    classes: tuple[str, ...] | None
    dataset: Dataset
    batches: tuple[np.ndarray, ...]
    answers: tuple[tuple[np.ndarray, ...], ...]

    # What the network takes and gives.
    input_shape: ClassVar[tuple[int | None, ...]] = IMAGE_SHAPE
    takes_bytes: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        return int(self.inference.output_shape[-1])

    @property
    def probabilities(self) -> np.ndarray:
        return np.concatenate([answer[0] for answer in self.answers])

    @property
    def labels(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @property
    def truth(self) -> np.ndarray:
        """The images' labels; the model's own where it knows other classes."""
        own = self.classes in (None, self.dataset.classes)
        return self.dataset.test.labels if own else self.labels

    def named(self, images: Any) -> dict[str, Any]:
        """The outputs, in a graph of TensorFlow's."""
        import tensorflow as tf

        probabilities = self.inference(images)
        # TensorFlow's own: Keras's argmax minds -0.0 with operations that ONNX lacks.
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": tf.identity(probabilities), "label": label}

    def compared(
        self, kind: str, answers: Sequence[tuple[np.ndarray, ...]]
    ) -> tuple[float, int, str | None]:
        """The largest difference, how many images are the same, and what is wrong."""
        probabilities, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        difference = float(np.abs(probabilities - self.probabilities).max())
        same = int((labels == self.labels).sum())
        return difference, same, _disagreement(self, kind, difference, labels)


class _Detector(_Model):
    """A reader that is exported: compared on pages of several sizes."""

    input_shape = (None, None, 1)
    takes_bytes = False

    @property
    def num_classes(self) -> int:
        return int(self.inference.output["probabilities"].shape[-1])

    def named(self, images: Any) -> dict[str, Any]:
        import tensorflow as tf

        found = self.inference(images)
        return {name: tf.identity(found[name]) for name in runtimes.READER_OUTPUTS}

    def compared(
        self, kind: str, answers: Sequence[tuple[np.ndarray, ...]]
    ) -> tuple[float, int, str | None]:
        difference, away, same = 0.0, 0.0, 0
        for answer, expected in zip(answers, self.answers, strict=True):
            apart = [np.abs(a - b).max() for a, b in zip(answer, expected, strict=True)]
            difference = max(difference, float(apart[0]), float(apart[2]))
            away = max(away, float(apart[1]))
            found = [
                np.where(presence > 0.5, probabilities.argmax(axis=-1), -1)
                for presence, _, probabilities in (answer, expected)
            ]
            same += int((found[0] == found[1]).all(axis=(1, 2)).sum())
        if difference <= TOLERANCE and away <= BOX_TOLERANCE:
            return difference, same, None
        return (
            difference,
            same,
            (
                f"expected the Keras model's presence and probabilities within {TOLERANCE}, and "
                f"its boxes within {BOX_TOLERANCE} pixels; received: differences of "
                f"{difference:.1e} and {away:.1e}."
            ),
        )


def export_model(
    model: str | Path,
    out_dir: str | Path,
    formats: Sequence[str] = ("saved_model",),
    quantize: str | None = None,
) -> list[Artifact]:
    """Writes `model` in other formats into a folder, and the names of its classes beside them.

    `digitnet/<next integer>/` is a SavedModel for TF Serving, the others are
    `model.onnx`, `model.tflite`, `model_int8.tflite` and `model.xml` with
    `model.bin`. Each takes `images`, `(N, 28, 28, 1)` uint8, and gives
    `probabilities`, `(N, C)` float32, and `label`, `(N,)` int32. Each is loaded
    again in its own runtime and compared with the Keras model, on the test
    images that the model was trained beside, or else on the bundled digits;
    what does not agree is not left behind.

    Only TensorFlow writes them soundly, so under another backend a child
    process that runs on TensorFlow does; a `.keras` file loads under all.

    Args:
        model: A preset's name, the folder of a run, or a `.keras` file.
        out_dir: Where the files go; those of the same names are replaced.
        formats: Some of `EXPORT_FORMATS`, or `all` alone; a reader has no LiteRT.
        quantize: `int8`, with the format `litert` alone: weights and most
            activations in eight bits, calibrated on training images.

    Raises:
        DigitNetError: There is no such model or format, a package is missing,
            or what was written does not agree with the Keras model.
    """
    keras_path = find_keras_file(model)
    kinds = export_kinds(formats, quantize)
    if keras.backend.backend() != "tensorflow":
        artifacts = _export_in_tensorflow(keras_path, Path(out_dir), formats, quantize)
        for artifact in artifacts:
            _announce(artifact)
        return artifacts
    _require_packages(kinds)
    opened = _open(keras_path)
    if isinstance(opened, _Detector):
        kinds = _of_open_size(kinds, chosen=list(formats) != ["all"])
    out_dir = Path(out_dir)
    if kinds != ["saved_model"]:  # which has its names inside
        _refuse_other_names(out_dir, opened)
    artifacts = []
    for kind in kinds:
        artifacts.append(_written(kind, opened, out_dir))
        _announce(artifacts[-1])
    return artifacts


def _of_open_size(kinds: list[str], chosen: bool) -> list[str]:
    """The formats that can hold a reader, whose pages have any size."""
    fixed = [kind for kind in kinds if "litert" in kind]
    if fixed and chosen:
        raise DigitNetError(
            "format: expected saved_model, onnx or openvino for a reader, whose pages have any "
            f"size; received: {', '.join(fixed)}, whose sizes are fixed."
        )
    if fixed:
        logger.info("LiteRT is left out: its sizes are fixed, and a reader's pages have any size.")
    return [kind for kind in kinds if kind not in fixed]


def _announce(artifact: Artifact) -> None:
    logger.info("Written and verified: %s", artifact.path)
    if artifact.format == "litert int8" and artifact.images < _ENOUGH_IMAGES:
        logger.info(
            "The %s test images of %s are too few to measure what int8 costs: it was judged by "
            "those of which the Keras model is sure. More of them tell: keras-digitnet evaluate %s "
            "--data mnist",
            f"{artifact.images:,}",
            artifact.compared_on,
            artifact.path,
        )


def _require_packages(kinds: list[str]) -> None:
    """Before anything is written."""
    for kind in kinds:
        for module, extra in _EXTRAS.get(kind, {}).items():
            with suppress_native_stderr():
                import_extra(module, extra)


def _open(keras_path: Path) -> _Model:
    inference = runtimes.load_inference_model(keras_path)
    dataset = _dataset_of(keras_path)
    runtime = runtimes.open_keras(keras_path)
    classes = class_names(keras_path.parent, runtime.num_classes)
    batches = _pages(dataset) if runtime.is_reader else _batches(dataset)
    answers = tuple(runtime.predict_batch(batch) for batch in batches)
    kind = _Detector if runtime.is_reader else _Model
    return kind(keras_path, inference, classes, dataset, batches, answers)


def _batches(dataset: Dataset) -> tuple[np.ndarray, ...]:
    images = dataset.test.images
    return tuple(images[start : start + _BATCH] for start in range(0, len(images), _BATCH))


def _pages(dataset: Dataset) -> tuple[np.ndarray, ...]:
    """Lines of test images as a reader looks at them, one by one: each has a size of its own."""
    random = np.random.default_rng(0)
    lines = (write_line(dataset.test, random) for _ in range(_PAGES))
    return tuple(canvas(line.picture, 24 / line.picture.shape[0], as_edge=True) for line in lines)


def _dataset_of(keras_path: Path) -> Dataset:
    """The images that the run was trained beside, else the bundled ones."""
    # A config.json of somebody else, or images that have changed since, are no reason to fail.
    known = (DigitNetError, KeyError, TypeError, ValueError, RuntimeError, OSError)
    with contextlib.suppress(*known), _told_already("keras_digitnet.data"):
        settings = read_json(keras_path.with_name("config.json"))["train"]
        if is_at_hand(settings["data"]):
            return load_dataset(
                settings["data"],
                seed=settings["seed"],
                validation_size=settings["validation_size"],
            )
    return load_dataset("digits")


@contextlib.contextmanager
def _told_already(name: str) -> Iterator[None]:
    """Without a logger's warnings: the run that had these images has given them."""
    talker = logging.getLogger(name)
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        yield
    finally:
        talker.setLevel(level)


def _refuse_other_names(out_dir: Path, model: _Model) -> None:
    """A folder has one `config.json`: no model may stand beside the names of another."""
    if out_dir.resolve() == model.path.parent.resolve() or not (out_dir / "config.json").exists():
        return
    if (out_dir / model.path.name).exists():
        raise DigitNetError(
            f"{out_dir}: expected a folder for exports; received: that of another "
            f"{model.path.name}. Name another folder."
        )
    found = class_names(out_dir, model.num_classes)
    if found is None or found != model.classes:
        raise DigitNetError(
            f"{out_dir / 'config.json'}: expected the classes of the exported model, "
            f"{model.classes}; received: {found}. Name another folder."
        )


def _copy_config(keras_path: Path, folder: Path) -> None:
    config_path = keras_path.with_name("config.json")
    if config_path.is_file() and config_path.parent.resolve() != folder.resolve():
        with atomic_write(folder / "config.json") as temporary:
            shutil.copy(config_path, temporary)


# Comparing


def _verified(
    model: _Model, kind: str, path: Path, size: int, runtime: runtimes.Runtime
) -> Artifact:
    """What was written and opened again, if it does as the Keras model does.

    Args:
        model: What it is compared with.
        kind: A key of `_WRITERS`.
        path: The name that it will have.
        size: Bytes.
        runtime: The artifact, under its temporary name.
    """
    answers = [runtime.predict_batch(batch) for batch in model.batches]
    difference, same, problem = model.compared(kind, answers)
    if problem:
        raise DigitNetError(f"{path}: {problem} It was not kept.")
    count = sum(map(len, model.batches))
    return Artifact(kind, path, size, model.dataset.name, count, difference, same)


def _disagreement(model: _Model, kind: str, difference: float, labels: np.ndarray) -> str | None:
    differing = int((labels != model.labels).sum())
    if kind != "litert int8":
        if difference <= TOLERANCE and not differing:
            return None
        return (
            f"expected the Keras model's labels, and its probabilities within {TOLERANCE}; "
            f"received: {differing} other labels, a difference of {difference:.1e}."
        )
    if not np.isfinite(difference):
        return "expected finite probabilities of int8; received: NaN or infinity."
    judge = _cost if len(labels) >= _ENOUGH_IMAGES else _otherwise_where_sure
    problem = judge(model, labels)
    return problem and f"{problem} Export it without --quantize."


def _cost(model: _Model, labels: np.ndarray) -> str | None:
    cost = int((labels != model.truth).sum() - (model.labels != model.truth).sum())
    if cost <= INT8_COST * len(labels):
        return None
    return (
        f"expected int8 to cost at most {INT8_COST:.1%} of {len(labels):,} images; "
        f"received: {cost} more mistakes."
    )


def _otherwise_where_sure(model: _Model, labels: np.ndarray) -> str | None:
    """Judges int8 by the images that do not hang in the balance.

    Rounding decides those that do, however fine it is, and there are many of
    them among digits that the model was not trained for. Of a model that is
    hardly sure of anything the surer half counts.
    """
    confidence = model.probabilities.max(axis=1)
    sure = confidence >= min(_SURE, float(np.median(confidence)))
    count, otherwise = int(sure.sum()), int((labels != model.labels)[sure].sum())
    allowed = max(1, int(INT8_COST * count))
    if otherwise <= allowed:
        return None
    return (
        f"expected int8 to keep the label of at least {count - allowed:,} of the {count:,} images "
        f"of {model.dataset.name} that the Keras model is sure of ({len(labels):,} images are too "
        f"few to measure a cost of {INT8_COST:.1%}); received: {otherwise} other labels."
    )


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# Writing


def _written(kind: str, model: _Model, out_dir: Path) -> Artifact:
    try:
        return _WRITERS[kind](model, out_dir)
    except (DigitNetError, OSError):
        raise
    except Exception as error:  # each converter has exceptions of its own
        raise DigitNetError(
            f"{kind}: expected a model that this format can hold; received: {first_line(error)}"
        ) from error


def _write_saved_model(model: _Model, out_dir: Path) -> Artifact:
    servable_dir = out_dir / SERVABLE_NAME
    with temporary_beside(servable_dir / "new") as temporary:
        _save(model, temporary, image_bytes=model.takes_bytes)
        (temporary / "assets.extra").mkdir()
        _copy_config(model.path, temporary / "assets.extra")
        _write_warmup_requests(model, temporary / "assets.extra")
        runtime = runtimes.open_saved_model(temporary)
        artifact = _verified(model, "saved_model", servable_dir, _size(temporary), runtime)
        return dataclasses.replace(artifact, path=publish_version(temporary, servable_dir))


def _save(model: _Model, folder: Path, image_bytes: bool) -> None:
    """A SavedModel with `serving_default`, and on request with `image_bytes`."""
    archive = keras.export.ExportArchive()
    serve = _serving_function(model)
    archive.add_endpoint("serving_default", serve)
    if image_bytes:
        archive.add_endpoint("image_bytes", _serving_function_of_bytes(serve))
    import tensorflow as tf

    try:
        archive.write_out(str(folder), verbose=False)
    except tf.errors.OpError as error:  # what TensorFlow makes of a full disk
        raise OSError(error.message.split("; ")[-1]) from error


def _serving_function(model: _Model) -> Any:
    """A TensorFlow function from `images` to the named outputs of every artifact."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, *model.input_shape], tf.uint8, "images")])
    def serve(images: Any) -> dict[str, Any]:
        return model.named(images)

    return serve


def _serving_function_of_bytes(serve: Any) -> Any:
    """The same from `image_bytes`, a PNG or JPEG a row."""
    import tensorflow as tf

    pixels = tf.TensorSpec(IMAGE_SHAPE, tf.uint8)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve_bytes(image_bytes: Any) -> dict[str, Any]:
        return serve(tf.map_fn(_decoded, image_bytes, fn_output_signature=pixels))

    return serve_bytes


def _decoded(content: Any) -> Any:
    """One PNG or JPEG, grey and resized, as `images.read_image` does it outside of a graph."""
    import tensorflow as tf

    image = tf.io.decode_image(content, channels=1, expand_animations=False)
    image.set_shape([None, None, 1])
    resized = tf.image.resize(image, IMAGE_SHAPE[:2], "lanczos3", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _write_warmup_requests(model: _Model, folder: Path) -> None:
    """Requests that a server answers for itself before it takes any, so that nobody waits.

    One of each signature, and a batch: the form of TensorFlow Serving's
    "SavedModel Warmup".
    """
    import tensorflow as tf

    try:
        import_extra("tensorflow_serving", "serving")
    except DigitNetError as error:
        logger.info("The SavedModel goes without warm-up requests. %s", error)
        return
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    first = model.batches[0]
    requests = [("serving_default", "images", first[:1]), ("serving_default", "images", first[:32])]
    if model.takes_bytes:
        picture = tf.io.encode_png(first[0]).numpy()
        requests.append(("image_bytes", "image_bytes", np.array([picture], object)))
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, name, value in requests:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=SERVABLE_NAME, signature_name=signature),
                inputs={name: tf.make_tensor_proto(value)},
            )
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def _write_onnx(model: _Model, out_dir: Path) -> Artifact:
    import onnx

    proto = _onnx(model)
    return _written_file(
        model,
        "onnx",
        out_dir / "model.onnx",
        runtimes.open_onnx,
        lambda path: onnx.save_model(proto, path),
    )


def _onnx(model: _Model) -> Any:
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto, _ = tf2onnx.convert.from_function(
        serve := _serving_function(model), serve.input_signature, opset=17
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _write_litert(model: _Model, out_dir: Path) -> Artifact:
    content = _litert(model)
    return _written_file(
        model,
        "litert",
        out_dir / "model.tflite",
        runtimes.open_litert,
        lambda path: path.write_bytes(content),
    )


def _litert(model: _Model) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, suppress_native_stderr():
        _save(model, Path(folder), image_bytes=False)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def _write_litert_int8(model: _Model, out_dir: Path) -> Artifact:
    content = _quantized(_litert(model), model.dataset.train.images)
    return _written_file(
        model,
        "litert int8",
        out_dir / "model_int8.tflite",
        runtimes.open_litert,
        lambda path: path.write_bytes(content),
    )


def _quantized(content: bytes, images: np.ndarray) -> bytes:
    """The convolutions and dense layers in eight bits, but for the stem.

    The stem's outputs barely vary on black paper, and the normalization after
    it would blow its rounding up: with it `nano` reads 7 % of MNIST otherwise.
    """
    from ai_edge_quantizer import qtyping, quantizer

    def eight_bits(granularity: Any, symmetric: bool) -> Any:
        return qtyping.TensorQuantizationConfig(8, symmetric, granularity)

    granularities = qtyping.QuantGranularity
    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=eight_bits(granularities.TENSORWISE, symmetric=False),
        weight_tensor_config=eight_bits(granularities.CHANNELWISE, symmetric=True),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    operations = qtyping.TFLOperationName
    chosen = np.random.default_rng(0).permutation(len(images))[:_CALIBRATION_IMAGES]
    samples = [{"images": images[index : index + 1]} for index in chosen]
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with silent[0], silent[1], suppress_native_stderr():
        quantizing = quantizer.Quantizer(bytearray(content))
        for regex, operation in (
            (".*", operations.FULLY_CONNECTED),
            (".*", operations.DEPTHWISE_CONV_2D),
            (".*downsample.*", operations.CONV_2D),
        ):
            quantizing.update_quantization_recipe(regex, operation, config)
        calibration = quantizing.calibrate({"serving_default": samples})
        return bytes(quantizing.quantize(calibration).quantized_model)


def _write_openvino(model: _Model, out_dir: Path) -> Artifact:
    with temporary_beside(out_dir / "openvino") as temporary:
        temporary.mkdir()
        _save_openvino(model, temporary / "model.xml")
        runtime = runtimes.open_openvino(temporary / "model.xml")
        path = out_dir / "model.xml"
        artifact = _verified(model, "openvino", path, _size(temporary), runtime)
        _copy_config(model.path, out_dir)
        path.unlink(missing_ok=True)  # never an old one beside new weights, or the reverse
        for name in ("model.bin", "model.xml"):
            (temporary / name).replace(out_dir / name)
        return artifact


def _save_openvino(model: _Model, path: Path) -> None:
    openvino = import_extra("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), image_bytes=False)
        network = openvino.Core().read_model(folder)
        openvino.save_model(network, path, compress_to_fp16=False)


def _written_file(
    model: _Model,
    kind: str,
    path: Path,
    open_runtime: Callable[[Path], runtimes.Runtime],
    write: Callable[[Path], object],
) -> Artifact:
    with atomic_write(path) as temporary:
        write(temporary)
        artifact = _verified(model, kind, path, _size(temporary), open_runtime(temporary))
        _copy_config(model.path, path.parent)
        return artifact


_WRITERS: dict[str, Callable[[_Model, Path], Artifact]] = {
    "saved_model": _write_saved_model,
    "onnx": _write_onnx,
    "litert": _write_litert,
    "litert int8": _write_litert_int8,
    "openvino": _write_openvino,
}


# Under another backend


def _export_in_tensorflow(
    keras_path: Path, out_dir: Path, formats: Sequence[str], quantize: str | None
) -> list[Artifact]:
    """Runs this room as a program; the last line that it prints is the artifacts or the error.

    Its stdin ends when this process does, even killed, and then so does it: what
    it published later would stand beside what a resumed run has exported.
    """
    arguments = json.dumps([str(keras_path), str(out_dir), list(formats), quantize])
    stdin, held_open = os.pipe()
    try:
        child = subprocess.run(
            [sys.executable, "-m", "keras_digitnet.export", arguments],
            env=os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(stdin)
        os.close(held_open)
    try:
        answer = json.loads(child.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": f"it ended with code {child.returncode} and said nothing"}
    if "error" in answer:
        raise DigitNetError(f"The export in a TensorFlow process failed: {answer['error']}")
    return [Artifact(**{**row, "path": Path(row["path"])}) for row in answer["artifacts"]]


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        artifacts = export_model(*json.loads(sys.argv[1]))
        answer: dict[str, Any] = {"artifacts": [artifact.to_json() for artifact in artifacts]}
    except (DigitNetError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
