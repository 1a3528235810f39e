"""ONNX files, computed by ONNX Runtime on the CPU."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.environment import import_runtime
from keras_digitnet.formats.runtime import (
    Runtime,
    Signature,
    checked_outputs,
    loading,
    require_finite,
    usable_cpus,
)

if TYPE_CHECKING:
    from keras_digitnet.formats.reference import Reference


def open_model(path: Path, threads: int | None = None) -> Runtime:
    """Opens an `.onnx` file in ONNX Runtime, on the CPU."""
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised as exceptions
    options.intra_op_num_threads = threads or usable_cpus()
    dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}

    def described(nodes: Any) -> Signature:
        return {
            node.name: (
                dtypes.get(node.type, node.type),
                tuple(size if isinstance(size, int) else None for size in node.shape),
            )
            for node in nodes
        }

    with loading(path, "an .onnx model that ONNX Runtime can load"):
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        outputs, num_classes = checked_outputs(
            path, described(session.get_inputs()), described(session.get_outputs())
        )
        require_finite(path, _onnx_weights(path.read_bytes()))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(session.run(list(outputs), {"images": images}))

    return Runtime(str(path), predict_batch, num_classes, outputs)


def _onnx_weights(model: bytes) -> Iterator[np.ndarray]:
    """Yields the float32 initializers.

    ONNX Runtime does not expose them, and `onnx` may not be installed.
    """
    graph, initializer, dtype, float32, float_data, raw_data = 7, 5, 2, 1, 4, 9
    for field, content in _protobuf_fields(model):
        for part, tensor in _protobuf_fields(content) if field == graph else ():
            values = dict(_protobuf_fields(tensor)) if part == initializer else {}
            if values.get(dtype) == float32:
                yield np.frombuffer(values.get(raw_data) or values.get(float_data, b""), "<f4")


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yields the number and content of each field of a protobuf message of any type."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    return (
        (field.field_number, field.data) for field in UnknownFieldSet(Empty.FromString(message))
    )


def write_model(reference: "Reference", path: Path) -> None:
    """Converts the network's TensorFlow function."""
    import onnx
    import tf2onnx

    from keras_digitnet.formats.saved_model import serving_function

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto, _ = tf2onnx.convert.from_function(
        serve := serving_function(reference.shortened()), serve.input_signature, opset=17
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, path)
