"""Folded networks compute what they did, in fewer operations."""

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, TINY
from keras import layers
from test_detector import TINY_READER

from keras_digitnet.config import PRESETS
from keras_digitnet.data import Dataset
from keras_digitnet.environment import import_runtime
from keras_digitnet.networks.classifier import build_inference_model, build_model
from keras_digitnet.networks.detector import build_detection_model, build_detector
from keras_digitnet.networks.folding import fold_normalizations, fuse_normalizations


@pytest.fixture(scope="module")
def images(digits: Dataset) -> np.ndarray:
    return digits.test.images[:40]


def with_random_weights(model: keras.Model) -> keras.Model:
    """Also scales and offsets, which are initialized to ones and zeros."""
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape).astype("float32"))
    return model


def folded(inference: keras.Model, images: np.ndarray) -> keras.Model:
    """The folded network, which must return the same probabilities, also the smallest."""
    short = fold_normalizations(inference)
    expected, received = (np.log(model.predict_on_batch(images)) for model in (inference, short))
    assert expected.std(axis=0).max() > 0.01
    assert np.allclose(received, expected, atol=1e-4)
    return short


@pytest.mark.backends
def test_a_classifier_keeps_its_probabilities(images: np.ndarray) -> None:
    inference = build_inference_model(with_random_weights(build_model(TINY)))
    kinds = {type(layer) for layer in folded(inference, images).layers}
    assert kinds.isdisjoint({layers.LayerNormalization, layers.Dense, layers.Flatten})


@pytest.mark.parametrize(
    "after",
    [
        layers.Conv2D(4, 3, padding="valid"),
        layers.Conv2D(4, 3, padding="same"),
        layers.Conv2D(4, 3, 3, padding="same"),
        layers.Conv2D(4, 2, 2, padding="same", activation="relu"),
        layers.Conv2D(4, 3, padding="valid", groups=2),
        layers.Conv2D(4, 3, padding="valid", dilation_rate=2, use_bias=False),
        layers.Dense(4, use_bias=False, activation="gelu"),
        layers.DepthwiseConv2D(2),
    ],
)
def test_every_layer_after_a_normalization_computes_the_same(
    after: keras.layers.Layer, images: np.ndarray
) -> None:
    inputs = keras.Input((28, 28, 1), dtype="uint8")
    x = layers.Conv2D(6, 3)(layers.Rescaling(1 / 255)(inputs))
    first = layers.LayerNormalization()(x)
    other = layers.LayerNormalization(axis=(1, 2), center=False)(first)
    last = layers.LayerNormalization(axis=3)(after(first))
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(other), layers.Flatten()(last)])
    model = with_random_weights(keras.Model(inputs, layers.Dense(10)(x)))
    folded(build_inference_model(model), images)


@pytest.mark.backends
def test_a_reader_keeps_its_answers(images: np.ndarray) -> None:
    deployed = build_detection_model(with_random_weights(build_detector(TINY_READER)))
    page = images[0].repeat(2, axis=0)[None]
    expected, received = (
        model.predict_on_batch(page) for model in (deployed, fuse_normalizations(deployed))
    )
    for name in expected:
        assert np.allclose(received[name], expected[name], rtol=1e-4, atol=1e-4), name


def test_onnx_runtime_computes_each_normalization_of_the_reader_at_once(tmp_path: Path) -> None:
    import onnx

    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4  # a warning that the file suits this machine only
    onnxruntime.InferenceSession(ROOT / "saved_models" / "reader" / "model.onnx", options)
    computed = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    network = PRESETS["reader"].model
    # One in each block, after the stem and down- and upsampling, and before the head.
    assert computed.count("LayerNormalization") == sum(network.depths) + 4
    assert "ReduceMean" not in computed
