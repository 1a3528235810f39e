"""A client of TF Serving's REST API (https://www.tensorflow.org/tfx/serving/api_rest)."""

import json
import re
from typing import Any

import numpy as np

from keras_digitnet.formats.runtime import Runtime, Signature, checked_outputs
from keras_digitnet.serving.transport import Server, to_array

PATH = re.compile(r"/v1/models/[\w.-]+(/(versions|labels)/[\w.-]+)?", re.ASCII)


def open_model(server: Server) -> Runtime:
    """Opens the model after checking its metadata.

    Raises:
        DigitNetError: The server does not answer, or the model is neither a
            classifier nor a reader.
    """
    metadata, _ = server.request(f"{server.url}/metadata")
    outputs, num_classes = checked_outputs(server.url, *_signature(server, metadata))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        request = {"signature_name": "serving_default", "inputs": {"images": images.tolist()}}
        answer, _ = server.request(f"{server.url}:predict", json.dumps(request).encode())
        return _arrays(server, answer, outputs)

    return Runtime(server.url, predict_batch, num_classes, outputs)


def _signature(server: Server, metadata: Any) -> tuple[Signature, Signature]:
    """The inputs and outputs of `serving_default`."""
    try:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        signature = signatures["serving_default"]
        return _described(signature["inputs"]), _described(signature["outputs"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise server.error("the metadata of a model with serving_default", metadata) from None


def _described(tensors: Any) -> Signature:
    def size(dim: Any) -> int | None:
        return None if int(dim["size"]) < 0 else int(dim["size"])

    dtypes = {"DT_UINT8": "uint8", "DT_FLOAT": "float32", "DT_INT32": "int32"}
    return {
        name: (
            dtypes.get(tensor["dtype"], tensor["dtype"]),
            tuple(map(size, tensor["tensor_shape"]["dim"])),
        )
        for name, tensor in tensors.items()
    }


def _arrays(server: Server, answer: Any, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    try:
        outputs = answer["outputs"]
        return tuple(
            to_array(outputs[name], np.int64 if name == "label" else np.float32) for name in names
        )
    except (KeyError, TypeError, ValueError):
        raise server.error(f"outputs {' and '.join(names)}", answer) from None
