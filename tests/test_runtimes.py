"""Files of other models are refused with one message."""

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import TINY

from keras_digitnet.errors import DigitNetError
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.reading.inference import load


def refused(where: Path, message: str) -> None:
    with pytest.raises(DigitNetError, match=message) as caught:
        load(where)
    assert "\n" not in str(caught.value)
    assert where.name in str(caught.value)
    assert len(str(caught.value)) < 1000


# .keras


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    build_model(TINY).save(path)
    return path


def rewrite(path: Path, member: str, content: bytes) -> None:
    """Replaces a member of the archive, compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, old in members.items():
            archive.writestr(name, content if name == member else old)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def of_text(path: Path) -> None:
    path.write_text("no model")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_shape(path: Path) -> None:
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(path)


def of_scaled_floats(path: Path) -> None:
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    keras.Sequential(layers).save(path)


def that_is_sequential(path: Path) -> None:
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(10)]).save(path)


def with_damaged_weights(path: Path) -> None:
    rewrite(path, "model.weights.h5", b"no weights")


def without_a_config(path: Path) -> None:
    rewrite(path, "config.json", b"{}")


@pytest.mark.backends
@pytest.mark.parametrize(
    "corrupt",
    [
        truncated,
        of_text,
        empty,
        of_another_shape,
        of_scaled_floats,
        that_is_sequential,
        with_damaged_weights,
        without_a_config,
    ],
)
def test_a_keras_file_of_another_network(model_path: Path, corrupt: Callable[[Path], None]) -> None:
    corrupt(model_path)
    refused(model_path, "expected .*received: ")


# Exported formats


def an_onnx(path: Path, shape: list[int | str], dtype: int, outputs: int = 10) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = int(np.prod([size for size in shape[1:] if isinstance(size, int)]))
    kernel = numpy_helper.from_array(np.zeros((size, outputs), np.float32), "kernel")
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("MatMul", ["rows", "kernel"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", outputs])],
        [kernel],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save_model(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (["N", 1, 28, 28], 1, r"received: from images \(N, 1, 28, 28\) float32 to"),
        (["N", 32, 32, 1], 2, r"received: from images \(N, 32, 32, 1\) uint8"),
        (["N", 28, 28, 1], 2, r"to probabilities \(N, 10\) float32\."),
        ([1, 28, 28, 1], 2, r"received: from images \(1, 28, 28, 1\) uint8"),
    ],
)
def test_an_onnx_of_another_shape(
    tmp_path: Path, shape: list[int | str], dtype: int, message: str
) -> None:
    an_onnx(tmp_path / "other.onnx", shape, dtype)
    refused(tmp_path / "other.onnx", message)


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model_int8.tflite", "model.xml"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file(exported: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (exported / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    shutil.copy(exported / "model.bin", tmp_path)
    # The reason, not a location in a library's source.
    refused(tmp_path / name, r"expected .*received: (?!Exception from)\S")


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.xml"])
def test_a_text_file_of_that_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Dear reader, this is no model, whatever its name says.\n" * 50)
    refused(tmp_path / name, "expected .*received: ")


def test_missing_weights(exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "model.xml", tmp_path)
    refused(tmp_path / "model.xml", "expected its weights beside it, in model.bin")


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model(exported: Path, tmp_path: Path, name: str) -> None:
    version = tmp_path / "version"
    shutil.copytree(exported / "digitnet" / "1", version)
    (version / name).write_bytes((version / name).read_bytes()[:1000])
    refused(version, "expected a SavedModel that TensorFlow can load; received: ")


def test_another_saved_model(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 28, 28, 1], tf.float32, "images")
    module.serve = tf.function(lambda images: {"logits": images[:, 0, :10, 0]}, [spec])
    tf.saved_model.save(module, str(tmp_path / "other"), {"serving_default": module.serve})
    refused(tmp_path / "other", r"received: from images \(N, 28, 28, 1\) float32 to logits")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("model.tflite", "ai_edge_litert.interpreter", "litert"),
        ("model.xml", "openvino", "openvino"),
    ],
)
def test_a_missing_runtime_names_its_extra(
    exported: Path, name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DigitNetError, match=rf"pip install 'keras_digitnet\[{extra}\]'"):
        load(exported / name)


def test_a_model_that_cannot_compute_is_one_message(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["fives"], value_ints=[-1, 5 * 784]),
        helper.make_node("Reshape", ["x", "fives"], ["rows"]),  # works for multiples of five images
        helper.make_node("Constant", [], ["zero"], value_ints=[0]),
        helper.make_node("Constant", [], ["end"], value_ints=[784]),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("Slice", ["rows", "zero", "end", "axis"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["long"], keepdims=0, axis=1),
        helper.make_node("Cast", ["long"], ["label"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "fives",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 28, 28, 1])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 784]),
            helper.make_tensor_value_info("label", TensorProto.INT32, ["N"]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "fives.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    classifier = load(path)
    with pytest.raises(DigitNetError, match=r"fives\.onnx: expected it to compute 3 images"):
        classifier.predict(np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(DigitNetError, match=r"received: \(1, 784\) and \(1,\)"):
        classifier.predict(np.zeros((5, 28, 28), np.uint8))
