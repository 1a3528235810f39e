"""A client of the Open Inference Protocol (V2) of Triton, KServe, MLServer and others.

The protocol is specified at https://github.com/kserve/open-inference-protocol; the extension
`binary_tensor_data`, raw bytes instead of JSON numbers, at
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

import json
import math
import re
import urllib.parse
from typing import Any

import numpy as np

from keras_digitnet.formats.runtime import Runtime, Signature, checked_outputs
from keras_digitnet.serving.transport import JSON_LENGTH, Server, ServerError, to_array

PATH = re.compile(r"/v2/models/[\w.-]+(/versions/[\w.-]+)?", re.ASCII)

_DTYPES = {"UINT8": "uint8", "FP32": "float32", "INT32": "int32", "INT64": "int64"}
_LABELS, _NUMBERS = ("INT32", "INT64"), ("FP32",)


def open_model(server: Server) -> Runtime:
    """Opens the model after a request with one black image.

    The outputs are taken from the answer, since the metadata may be empty.

    Raises:
        DigitNetError: The server does not answer, or the model is neither a
            classifier nor a reader.
    """
    metadata, _ = server.request(server.url)
    inputs = _declared_inputs(server, metadata)
    binary = supports_binary(server)
    answer = _infer(server, np.zeros((1, 28, 28, 1), np.uint8), binary)
    open_sizes, sides = (3, (None, None)) if "presence" in answer else (1, (28, 28))
    outputs = {
        name: (
            "int32" if name == "label" else "float32",
            (None,) * open_sizes + array.shape[open_sizes:],
        )
        for name, array in answer.items()
    }
    inputs = inputs or {"images": ("uint8", (None, *sides, 1))}
    names, num_classes = checked_outputs(server.url, inputs, outputs)

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        answer = _infer(server, images, binary)
        if not answer.keys() >= set(names):
            raise server.error(f"outputs {' and '.join(names)}", sorted(answer))
        return tuple(answer[name] for name in names)

    return Runtime(server.url, predict_batch, num_classes, names)


def _declared_inputs(server: Server, metadata: Any) -> Signature:
    def size(dim: Any) -> int | None:
        return None if int(dim) < 0 else int(dim)

    try:
        return {
            str(tensor["name"]): (
                _DTYPES.get(tensor["datatype"], str(tensor["datatype"])),
                tuple(map(size, tensor["shape"])),
            )
            for tensor in metadata.get("inputs") or []
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise server.error("the metadata of a model", metadata) from None


def supports_binary(server: Server) -> bool:
    """Whether the server lists the extension `binary_tensor_data`."""
    try:
        about, _ = server.request(urllib.parse.urljoin(server.url, "/v2"))
    except ServerError:  # a gateway may expose only the model
        return False
    extensions = about.get("extensions") if isinstance(about, dict) else None
    return isinstance(extensions, list) and "binary_tensor_data" in extensions


def _infer(server: Server, images: np.ndarray, binary: bool) -> dict[str, np.ndarray]:
    """The outputs by name; `label` is `(N,)` int64, all others are float32."""
    tensor: dict[str, Any] = {"name": "images", "shape": images.shape, "datatype": "UINT8"}
    url = f"{server.url}/infer"
    if binary:
        tensor["parameters"] = {"binary_data_size": images.nbytes}
        request = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        header = json.dumps(request).encode()
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(header))}
        answer, raw = server.request(url, header + images.tobytes(), headers)
    else:
        tensor["data"] = images.ravel().tolist()
        answer, raw = server.request(url, json.dumps({"inputs": [tensor]}).encode())
    try:
        return _outputs(answer, raw)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise server.error("outputs in FP32, and label in INT32 or INT64", answer) from None


def _outputs(answer: Any, raw: bytes) -> dict[str, np.ndarray]:
    """The arrays of an answer; `raw` holds those without JSON data, one after the other."""
    arrays = {}
    for output in answer["outputs"]:
        name, datatype, shape = str(output["name"]), output["datatype"], output["shape"]
        if datatype not in (_LABELS if name == "label" else _NUMBERS) or min(shape) < 0:
            raise ValueError
        dtype = np.dtype(_DTYPES[datatype]).newbyteorder("<")
        if "data" in output:
            array = to_array(output["data"], dtype)
        else:
            size = math.prod(shape) * dtype.itemsize
            if output["parameters"]["binary_data_size"] != size:
                raise ValueError
            array, raw = np.frombuffer(raw[:size], dtype), raw[size:]
        array = array.reshape(shape)
        if name == "label":
            # Servers that batch add a dimension: (N, 1).
            array = (array[:, 0] if array.shape[1:] == (1,) else array).astype(np.int64)
        arrays[name] = array
    return arrays
