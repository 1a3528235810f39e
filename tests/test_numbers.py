"""NaN, infinity and invalid probabilities are never answers, in any runtime."""

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT

from keras_digitnet.errors import DigitNetError
from keras_digitnet.export import export_model
from keras_digitnet.formats import EXPORTED, onnx
from keras_digitnet.formats.reference import Reference
from keras_digitnet.networks.classifier import build_inference_model
from keras_digitnet.reading.inference import load

LAYERS = ("stem_full", "stage0_block0_depthwise", "logits")
VALUES = (np.nan, np.inf, -np.inf)


def nano() -> keras.Model:
    import keras_digitnet.layers  # noqa: F401

    path = ROOT / "saved_models" / "nano" / "model.keras"
    return keras.saving.load_model(path, compile=False)


def alone(inference: keras.Model) -> Reference:
    """A reference for export, without data to compare on."""
    images = np.zeros((1, 28, 28, 1), np.uint8)
    return Reference(Path("model.keras"), inference, None, None, (images,), ())  # type: ignore[arg-type]


def written(model: keras.Model, folder: Path) -> list[Path]:
    """Writes the network in every format; `export_model` itself would refuse it."""
    model.save(folder / "model.keras")
    paths = [folder / form.file for form in EXPORTED if not form.quantized]
    for form, path in zip(EXPORTED, paths, strict=False):
        form.write(alone(build_inference_model(model)), path)
    return [folder / "model.keras", *paths]


def refused(where: Path, message: str) -> None:
    with pytest.raises(DigitNetError, match=message) as caught:
        load(where).predict(np.zeros((2, 28, 28), np.uint8))
    assert str(where) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        pytest.param(layer, value, marks=[pytest.mark.long] * (place != kind))
        for place, layer in enumerate(LAYERS)
        for kind, value in enumerate(VALUES)
    ],
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, layer: str, value: float) -> None:
    """One value among thousands, in a kernel or in the bias of the last layer."""
    model = nano()
    weight = model.get_layer(layer).weights[-1 if layer == "logits" else 0]
    values = np.array(keras.ops.convert_to_numpy(weight))
    values.flat[values.size // 2] = value
    weight.assign(values)
    for path in written(model, tmp_path):
        refused(path, "expected finite weights; received: NaN or infinity")
    with pytest.raises(DigitNetError, match="expected finite weights"):
        export_model(tmp_path / "model.keras", tmp_path / "out")


@pytest.mark.fresh
def test_scales_of_eight_bits(tmp_path: Path) -> None:
    """The integers of an int8 file are always finite; their scales may not be."""
    from ai_edge_litert.interpreter import Interpreter

    (artifact,) = export_model(
        ROOT / "saved_models" / "nano" / "model.keras", tmp_path, ["litert_int8"]
    )
    path = Path(artifact.path)
    details = Interpreter(str(path)).get_tensor_details()
    scales = [detail["quantization_parameters"]["scales"] for detail in details]
    content = path.read_bytes()
    kernels = [scale.tobytes() for scale in scales if scale.size > 1]
    assert kernels
    for scale in kernels:
        assert scale in content
        path.write_bytes(content.replace(scale, np.float32(np.nan).tobytes() + scale[4:], 1))
        refused(path, "expected finite weights; received: NaN or infinity")


@pytest.mark.backends
@pytest.mark.parametrize("value", VALUES)
def test_weights_of_a_keras_file(tmp_path: Path, value: float) -> None:
    model = nano()
    scale = model.get_layer("head_norm").gamma
    scale.assign(np.full(scale.shape, value, np.float32))
    model.save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", "expected finite weights")


def test_outputs_that_are_not_probabilities_are_refused(tmp_path: Path) -> None:
    """A network that returns logits as `probabilities`."""
    path = tmp_path / "logits.onnx"
    onnx.write_model(alone(nano()), path)
    refused(path, "expected probabilities of at least 0 that sum to 1 in each row; received: ")
