"""LiteRT (TensorFlow Lite) files, for phones and small boards."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.environment import import_extra, suppress_native_stderr
from keras_digitnet.formats.runtime import (
    Compute,
    Runtime,
    Signature,
    checked_outputs,
    in_turns,
    loading,
    require_finite,
    usable_cpus,
)

if TYPE_CHECKING:
    from keras_digitnet.formats.reference import Reference


def open_model(path: Path, threads: int | None = None) -> Runtime:
    """Opens a `.tflite` file in LiteRT."""
    litert = import_extra("ai_edge_litert.interpreter", "litert")

    def described(details: Mapping[str, Any]) -> Signature:
        return {
            name: (
                np.dtype(detail["dtype"]).name,
                tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
            )
            for name, detail in details.items()
        }

    with loading(path, "a .tflite model with serving_default"), suppress_native_stderr():
        content = path.read_bytes()  # kept for further workers, since the file may change

        def opened() -> Any:
            return litert.Interpreter(model_content=content, num_threads=threads or usable_cpus())

        interpreter = opened()
        require_finite(path, _litert_weights(interpreter))
        interpreter.allocate_tensors()  # prints its delegate once
        run = interpreter.get_signature_runner("serving_default")
        outputs, num_classes = checked_outputs(
            path, described(run.get_input_details()), described(run.get_output_details())
        )

    def worker(run: Any) -> Compute:
        def compute(images: np.ndarray) -> tuple[np.ndarray, ...]:
            answers = run(images=images)
            return tuple(answers[name] for name in outputs)

        return compute

    def another() -> Compute:
        return worker(opened().get_signature_runner("serving_default"))

    return Runtime(str(path), in_turns(worker(run), another), num_classes, outputs)


def _litert_weights(interpreter: Any) -> Iterator[np.ndarray]:
    """Yields the constant tensors, which have values before allocation, and all scales."""
    for detail in interpreter.get_tensor_details():
        yield detail["quantization_parameters"]["scales"]
        with contextlib.suppress(ValueError):
            yield interpreter.get_tensor(detail["index"])


def write_model(reference: "Reference", path: Path) -> None:
    """Converts the network's SavedModel."""
    path.write_bytes(converted(reference))


def converted(reference: "Reference") -> bytes:
    """The content of a LiteRT file of the network, in float32."""
    import tensorflow as tf

    from keras_digitnet.formats.saved_model import temporary_saved_model

    with suppress_native_stderr(), temporary_saved_model(reference.shortened()) as folder:
        content: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return content
