"""Runs the ONNX file that model-settings.json names in MLServer."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class DigitNet(MLModel):
    """A classifier or reader in ONNX Runtime."""

    async def load(self) -> bool:
        """Opens the model."""
        path = await get_model_uri(self.settings)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Computes all outputs for the images of a request."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        outputs = self._session.run(self._names, {"images": images})
        encoded = list(map(NumpyCodec.encode_output, self._names, outputs))
        return InferenceResponse(model_name=self.name, outputs=encoded)
