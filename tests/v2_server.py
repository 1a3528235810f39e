"""A small server of the Open Inference (V2) protocol, like Triton and MLServer."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from typing import Any

import numpy as np
from tf_serving import Answer, Raw, http_server

from keras_digitnet.reading.finding import Reader
from keras_digitnet.reading.inference import Classifier, load

DATATYPES = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64"}
JSON_LENGTH = "Inference-Header-Content-Length"

Outputs = dict[str, np.ndarray]


@cache
def local(name: str) -> Classifier | Reader:
    return load(name)


@dataclass
class V2:
    """Answers for a shipped model.

    Attributes:
        model: Its name; in addresses it is `digitnet`.
        binary: Whether binary tensors are supported.
        metadata: Whether the metadata lists the inputs.
        change: Modifies the outputs.
        paths: The requested paths.
        received: The headers of the requests.
    """

    model: str = "nano"
    binary: bool = True
    metadata: bool = True
    change: Callable[[Outputs], Outputs] = dict
    paths: list[str] = field(default_factory=list)
    received: list[Message] = field(default_factory=list)

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        self.paths.append(path)
        if (method, path) == ("GET", "/v2"):
            return 200, {"name": "v2", "extensions": ["binary_tensor_data"] * self.binary}
        match = re.fullmatch(r"/v2/models/digitnet(/versions/1)?(/infer)?", path)
        if not match:
            return 404, {"error": f"Request for unknown model: {path} is not found"}
        return self._infer(body) if match[2] else (200, self._described())

    def _described(self) -> Any:
        sizes = [-1, -1, -1, 1] if self.model == "reader" else [-1, 28, 28, 1]
        images = {"name": "images", "datatype": "UINT8", "shape": sizes}
        return {"name": "digitnet", "inputs": [images] if self.metadata else []}

    def _infer(self, body: bytes) -> Answer:
        length = int(self.received[-1][JSON_LENGTH] or len(body))
        (tensor,) = json.loads(body[:length])["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("images", "UINT8")
        if self.binary:
            assert len(body) - length == tensor["parameters"]["binary_data_size"]
            values = np.frombuffer(body[length:], np.uint8)
        else:
            values = np.array(tensor["data"], np.uint8)
        runtime = local(self.model)._runtime
        answers = runtime.predict_batch(values.reshape(tensor["shape"]))
        outputs = self.change(dict(zip(runtime.outputs, answers, strict=True)))
        return 200, encoded(outputs, self.binary)


def encoded(outputs: Outputs, binary: bool) -> Any:
    """Outputs in JSON, or described in JSON and followed by their bytes."""
    described = [
        {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        | (
            {"parameters": {"binary_data_size": array.nbytes}}
            if binary
            else {"data": array.ravel().tolist()}
        )
        for name, array in outputs.items()
    ]
    if not binary:
        return {"model_name": "digitnet", "outputs": described}
    header = json.dumps({"outputs": described}).encode()
    content = header + b"".join(array.tobytes() for array in outputs.values())
    return Raw(content, {JSON_LENGTH: str(len(header))})


@contextlib.contextmanager
def v2_server(**settings: Any) -> Iterator[tuple[str, V2]]:
    """Serves a shipped model; yields its URL and the handler."""
    answer = V2(**settings)
    with http_server(answer, answer.received) as server:
        yield f"{server}/v2/models/digitnet", answer
