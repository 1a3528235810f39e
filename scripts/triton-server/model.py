"""Runs the `network.onnx` beside it, for a Triton that has only the Python backend."""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """A classifier or reader in ONNX Runtime."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Opens the model."""
        version_dir = Path(arguments["model_repository"], arguments["model_version"])
        self._session = onnxruntime.InferenceSession(
            str(version_dir / "network.onnx"), providers=["CPUExecutionProvider"]
        )
        config = json.loads(arguments["model_config"])
        self._names = [output["name"] for output in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Computes the requests as one batch and returns one response each."""
        batches = [triton.get_input_tensor_by_name(r, "images").as_numpy() for r in requests]
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        outputs = self._session.run(self._names, {"images": np.concatenate(batches)})
        parts = [np.split(output, ends) for output in outputs]
        return [
            triton.InferenceResponse(list(map(triton.Tensor, self._names, row)))
            for row in zip(*parts, strict=True)
        ]
