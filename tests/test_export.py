import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import ROOT

from keras_digitnet import export
from keras_digitnet.data import Dataset, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.export import export_model
from keras_digitnet.formats import EXPORTED, openvino
from keras_digitnet.formats.reference import Reference
from keras_digitnet.reading.inference import load


@pytest.mark.backends
def test_every_format_agrees_with_keras(trained: Path, exported: Path, digits: Dataset) -> None:
    images = digits.test.images
    expected = load(trained).predict(images)
    for name in (form.file for form in EXPORTED if not form.quantized):
        classifier = load(exported / name)
        received = classifier.predict(images)
        assert classifier.classes == tuple("0123456789")
        assert received.probabilities.dtype == np.float32
        assert np.abs(received.probabilities - expected.probabilities).max() <= 1e-5, name
        assert np.array_equal(received.labels, expected.labels), name
    small = load(exported / "model_int8.tflite").predict(images)
    # The model is less confident on digits of 8x8 pixels than on MNIST's; see test_mnist.py.
    assert (small.labels != expected.labels).mean() <= 0.03
    assert (exported / "model_int8.tflite").stat().st_size < 160_000
    assert np.array_equal(load(exported / "digitnet" / "1").predict(images).labels, expected.labels)


def saved_model_cli(*arguments: object) -> str:
    command = Path(sys.executable).with_name("saved_model_cli")
    return subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def test_saved_model_cli_shows_and_runs_an_export(
    exported: Path, trained: Path, tmp_path: Path, digits: Dataset
) -> None:
    version = exported / "digitnet" / "1"
    shown = saved_model_cli("show", "--dir", version, "--all")
    for words in (
        "signature_def['serving_default']",
        "signature_def['image_bytes']",
        "inputs['images'] tensor_info:\n        dtype: DT_UINT8\n        shape: (-1, 28, 28, 1)",
        "inputs['image_bytes'] tensor_info:\n        dtype: DT_STRING\n        shape: (-1)",
        "outputs['probabilities'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 10)",
        "outputs['label'] tensor_info:\n        dtype: DT_INT32\n        shape: (-1)",
    ):
        assert words in shown
    images = digits.test.images[:20]
    np.save(tmp_path / "images.npy", images)
    inputs = f"images={tmp_path / 'images.npy'}"
    arguments = ["--tag_set", "serve", "--signature_def", "serving_default", "--inputs", inputs]
    saved_model_cli("run", "--dir", version, *arguments, "--outdir", tmp_path)
    expected = load(trained).predict(images)
    probabilities = np.load(tmp_path / "probabilities.npy")
    assert np.abs(probabilities - expected.probabilities).max() <= 1e-5
    assert np.array_equal(np.load(tmp_path / "label.npy"), expected.labels)


def test_the_warm_up_requests_work(exported: Path) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    version = exported / "digitnet" / "1"
    signatures = tf.saved_model.load(str(version)).signatures
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    sizes = []
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        answer = signatures[request.model_spec.signature_name](**inputs)
        sizes.append((request.model_spec.signature_name, len(answer["label"])))
    assert sizes == [("serving_default", 1), ("serving_default", 32), ("image_bytes", 1)]


def test_each_export_is_a_new_version(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "digitnet" / "7").mkdir(parents=True)
    (tmp_path / "digitnet" / "notes").mkdir()
    (artifact,) = export_model(trained, tmp_path)
    assert artifact.path == tmp_path / "digitnet" / "8"
    assert artifact.compared_on == "digits"
    assert artifact.same_labels == artifact.images == 359
    assert {path.name for path in (tmp_path / "digitnet").iterdir()} == {"7", "8", "notes"}


MISSING = [
    ("onnx", "tf2onnx", "onnx"),
    ("litert", "ai_edge_litert.interpreter", "litert"),
    ("openvino", "openvino", "openvino"),
]


@pytest.mark.parametrize(("form", "module", "extra"), MISSING)
def test_a_missing_package_is_one_message(
    trained: Path,
    tmp_path: Path,
    form: str,
    module: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DigitNetError, match=rf"pip install 'keras_digitnet\[{extra}\]'"):
        export_model(trained, tmp_path, ["saved_model", form])
    assert list(tmp_path.iterdir()) == []


def test_without_the_serving_extra_there_is_no_warm_up(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    with caplog.at_level(logging.INFO, "keras_digitnet"):
        (artifact,) = export_model(trained, tmp_path)
    assert "pip install 'keras_digitnet[serving]'" in caplog.text
    assert os.listdir(artifact.path / "assets.extra") == ["config.json"]


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["tflite"], "format: expected one of .*; received: tflite"),
        (["onx"], "received: onx. Did you mean onnx"),
        ([], "format: expected one of .*; received: none"),
    ],
)
def test_an_export_that_cannot_be_written_is_one_message(
    trained: Path, tmp_path: Path, formats: list[str], message: str
) -> None:
    with pytest.raises(DigitNetError, match=message):
        export_model(trained, tmp_path, formats)


def test_only_a_keras_model_is_exported(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(DigitNetError, match="expected a preset, the folder of a run or a .keras"):
        export_model(exported / "model.onnx", tmp_path)


def test_exports_that_fail_verification_are_deleted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison gets probabilities that differ from the exported ones."""
    opened = export._open

    def other(path: Path) -> Any:
        model = opened(path)
        answers = tuple((probabilities * 0.9999, labels) for probabilities, labels in model.answers)
        return dataclasses.replace(model, answers=answers)

    monkeypatch.setattr(export, "_open", other)
    (tmp_path / "model.onnx").write_text("what was there")
    for form in (each.name for each in EXPORTED if not each.quantized):
        with pytest.raises(
            DigitNetError, match="received: 0 other labels, a difference of 1.0e-04"
        ):
            export_model(trained, tmp_path, [form])
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / "model.onnx"]
    assert left[0].read_text() == "what was there"


def judged(probabilities: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> str | None:
    """The problem of an int8 model with these labels, given the Keras model's probabilities."""
    images = np.zeros((len(truth), 28, 28, 1), np.uint8)
    split = Split(images, truth)
    dataset = Dataset("some", "some", tuple("0123456789"), split, split, split)
    answers = ((probabilities, probabilities.argmax(axis=1)),)
    reference = Reference(Path("x.keras"), None, None, dataset, (), answers)  # type: ignore[arg-type]
    given = np.full((len(labels), 10), 0.5), labels
    return reference.compared(EXPORTED[-1], [given])[2]


def test_the_cost_of_int8_is_measured_on_many_images() -> None:
    truth = np.arange(10_000) % 10
    turned = (truth + 1) % 10
    labels = np.where(np.arange(10_000) < 10, turned, truth)
    assert judged(np.eye(10)[truth], labels, truth) is None
    labels = np.where(np.arange(10_000) < 11, turned, truth)
    assert judged(np.eye(10)[truth], labels, truth) == (
        "expected int8 to cost at most 0.1% of 10,000 images; received: 11 more mistakes. "
        "Export it as litert, in float32."
    )


@pytest.mark.parametrize("surest", [0.99, 0.6])
def test_on_few_images_int8_is_judged_where_the_keras_model_is_confident(surest: float) -> None:
    """On half of the images the model is not confident: rounding may change all their labels."""
    truth = np.arange(400) % 10
    confidence = np.where(np.arange(400) < 200, surest, 0.5)[:, None]
    probabilities = confidence * np.eye(10)[truth] + (1 - confidence) * np.eye(10)[truth - 1]
    turned = (truth + 9) % 10
    labels = np.where(np.arange(400) < 199, truth, turned)
    assert judged(probabilities, labels, truth) is None
    assert judged(probabilities, np.where(np.arange(400) < 198, truth, turned), truth) == (
        "expected int8 to keep the label of at least 199 of the 200 images of some on which the "
        "Keras model is confident (400 images are too few to measure a loss of 0.1%); "
        "received: 2 other labels. Export it as litert, in float32."
    )


def test_badly_calibrated_int8_is_deleted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = export._open

    def without_ink(path: Path) -> Any:
        model = opened(path)
        black = Split(np.zeros_like(model.dataset.train.images), model.dataset.train.labels)
        return dataclasses.replace(model, dataset=dataclasses.replace(model.dataset, train=black))

    monkeypatch.setattr(export, "_open", without_ink)
    with pytest.raises(DigitNetError, match="int8 to keep the label of .* images of digits on"):
        export_model(trained, tmp_path, ["litert_int8"])
    assert list(tmp_path.iterdir()) == []


def test_int8_suits_microcontrollers(tmp_path: Path) -> None:
    """It is small and has only the operations that the documentation tells users to compile."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    (artifact,) = export_model("nano", tmp_path, ["litert_int8"])
    assert artifact.size < 34_000
    model = flatbuffer_utils.read_model(artifact.path)
    (graph,) = model.subgraphs
    operations = [flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) for op in graph.operators]
    text = (ROOT / "saved_models" / "README.md").read_text()
    sentence = text.partition("needs these operations:")[2].partition(".")[0]
    assert sorted(set(operations)) == re.findall(r"`(\w+)`", sentence)
    assert operations.count("QUANTIZE") == 6  # once after each normalization
    types = [graph.tensors[end].type for end in (*graph.inputs, *graph.outputs)]
    assert types == [schema.TensorType.UINT8, schema.TensorType.FLOAT32, schema.TensorType.INT32]
    # Memory is planned for one image: a shape that depends on the number of images is wrong there.
    for op, name in zip(graph.operators, operations, strict=True):
        if name == "RESHAPE":
            before, after = (graph.tensors[end].shape for end in (op.inputs[0], op.outputs[0]))
            assert np.prod(before) == np.prod(after)


@pytest.mark.parametrize("there", [{"classes": list("abcdefghij")}, {"name": "a project"}])
def test_a_folder_with_other_names_is_left_alone(
    trained: Path, tmp_path: Path, there: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(there))
    with pytest.raises(DigitNetError, match=r"config\.json: .*received: .*Choose another folder"):
        export_model(trained, tmp_path, ["onnx"])
    assert json.loads((tmp_path / "config.json").read_text()) == there
    assert len(list(tmp_path.iterdir())) == 1


def test_the_folder_of_another_run_is_left_alone(trained: Path, tmp_path: Path) -> None:
    for name in ("model.keras", "config.json"):
        shutil.copy(trained / name, tmp_path)
    with pytest.raises(DigitNetError, match="expected a folder for exports; received: that of an"):
        export_model(trained, tmp_path, ["onnx"])


def test_class_names_are_written_before_the_first_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(openvino, "write_model", fail)
    with pytest.raises(DigitNetError, match="openvino: expected a model .*received: no memory"):
        export_model(trained, tmp_path, ["onnx", "openvino"])
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.onnx"}


@pytest.mark.parametrize(
    "config",
    [{"classes": list("0123456789"), "train": {"data": "~nosuchuser/x"}}, {"train": []}, []],
)
def test_an_invalid_config_does_not_prevent_an_export(
    trained: Path, tmp_path: Path, config: Any
) -> None:
    shutil.copy(trained / "model.keras", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (artifact,) = export_model(tmp_path, tmp_path / "out", ["onnx"])
    assert artifact.compared_on == "digits"


def test_a_model_that_a_format_cannot_hold_is_one_message(tmp_path: Path) -> None:
    images = keras.Input((28, 28, 1), dtype="uint8")
    x = keras.ops.cast(images, "float32")[..., 0]
    x = keras.ops.fft2((x, x))[0]
    keras.Model(images, keras.layers.Dense(10)(keras.layers.Flatten()(x))).save(
        tmp_path / "other.keras"
    )
    with pytest.raises(
        DigitNetError, match="onnx: expected a model that this format supports"
    ) as e:
        export_model(tmp_path / "other.keras", tmp_path / "out", ["onnx"])
    assert "\n" not in str(e.value)
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.backends
def test_a_failed_export_is_one_message(tmp_path: Path, trained: Path, backend: str) -> None:
    (tmp_path / "file").touch()
    where = "The export in a TensorFlow process failed: " if backend != "tensorflow" else ""
    expected = f"^{where}{tmp_path}/file/.*: expected to write it; received: .*another folder.$"
    with pytest.raises(DigitNetError, match=expected):
        export_model(trained, tmp_path / "file" / "folder", "saved_model")
