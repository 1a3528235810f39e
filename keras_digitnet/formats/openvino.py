"""OpenVINO's `.xml` files, each with a `.bin` beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.environment import import_extra
from keras_digitnet.errors import DigitNetError
from keras_digitnet.formats.runtime import (
    Compute,
    Runtime,
    Signature,
    checked_outputs,
    in_turns,
    loading,
    require_finite,
)

if TYPE_CHECKING:
    from keras_digitnet.formats.reference import Reference


def open_model(path: Path, threads: int | None = None) -> Runtime:
    """Opens an OpenVINO `.xml` file with its `.bin`, computing in float32.

    By default OpenVINO computes in bfloat16 on processors that support it, which
    changes probabilities by almost 0.01.
    """
    openvino = import_extra("openvino", "openvino")
    if not (weights := path.with_suffix(".bin")).is_file():
        raise DigitNetError(
            f"{path}: expected its weights beside it, in {weights.name}; received: none."
        )

    def open_size(size: Any) -> int | None:
        return None if size.is_dynamic else size.get_length()

    def described(ports: Any) -> Signature:
        return {
            min(port.names, default=""): (
                port.element_type.to_dtype().name,
                tuple(map(open_size, port.partial_shape)),
            )
            for port in ports
        }

    with loading(path, "an OpenVINO model that it can load"):
        core = openvino.Core()
        network = core.read_model(str(path))
        operations = network.get_ops()
        require_finite(
            path, (node.data for node in operations if node.get_type_name() == "Constant")
        )
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs, num_classes = checked_outputs(
            path, described(compiled.inputs), described(compiled.outputs)
        )

    def worker() -> Compute:
        request = compiled.create_infer_request()

        def compute(images: np.ndarray) -> tuple[np.ndarray, ...]:
            answers = request.infer({"images": images})
            return tuple(answers[name] for name in outputs)

        return compute

    return Runtime(str(path), in_turns(worker(), worker), num_classes, outputs)


def write_model(reference: "Reference", path: Path) -> None:
    """Converts the network's SavedModel; the weights go into the `.bin` beside the path."""
    from keras_digitnet.formats.saved_model import temporary_saved_model

    openvino = import_extra("openvino", "openvino")
    with temporary_saved_model(reference) as folder:
        network = openvino.Core().read_model(folder)
        openvino.save_model(network, path, compress_to_fp16=False)
