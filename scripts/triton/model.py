"""Runs `network.onnx`, which lies beside it, for a Triton that has only the Python backend."""

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: it reports to Microsoft

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        version_dir = Path(arguments["model_repository"], arguments["model_version"])
        self._session = onnxruntime.InferenceSession(
            str(version_dir / "network.onnx"), providers=["CPUExecutionProvider"]
        )
        config = json.loads(arguments["model_config"])
        self._names = [output["name"] for output in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer for each request; those that wait together are computed together."""
        batches = [triton.get_input_tensor_by_name(r, "images").as_numpy() for r in requests]
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        outputs = self._session.run(self._names, {"images": np.concatenate(batches)})
        parts = [np.split(output, ends) for output in outputs]
        return [
            triton.InferenceResponse(list(map(triton.Tensor, self._names, row)))
            for row in zip(*parts, strict=True)
        ]
