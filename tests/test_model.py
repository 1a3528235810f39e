from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import TINY

from keras_digitnet.config import CLASSIFIERS
from keras_digitnet.data import Dataset
from keras_digitnet.networks.blocks import count_parameters, fold_temperature, jit_compile
from keras_digitnet.networks.classifier import build_inference_model, build_model


@pytest.fixture(scope="module")
def images(digits: Dataset) -> np.ndarray:
    return digits.test.images[:40]


def logits(model: keras.Model, images: np.ndarray, training: bool = False) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=training))


@pytest.mark.parametrize("preset", CLASSIFIERS)
def test_a_preset_has_the_documented_parameters(preset: str) -> None:
    assert (
        count_parameters(build_model(CLASSIFIERS[preset].model)) == CLASSIFIERS[preset].parameters
    )


@pytest.mark.backends
def test_the_network_maps_uint8_images_to_one_logit_per_class(images: np.ndarray) -> None:
    model = build_model(replace(TINY, num_classes=26))
    assert model.input_shape == (None, 28, 28, 1)
    assert model.inputs[0].dtype == "uint8"
    assert model.get_layer("logits").activation is keras.activations.linear
    assert logits(model, images).shape == (40, 26)


@pytest.mark.backends
@pytest.mark.parametrize("augmentation", ["affine", "layers"])
def test_augmentation_acts_in_training_only(images: np.ndarray, augmentation: str) -> None:
    config = replace(TINY, augmentation=augmentation)
    keras.utils.set_random_seed(0)
    model = build_model(config)
    keras.utils.set_random_seed(0)
    plain = build_model(replace(config, augmentation="none"))
    for layer in plain.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights()) if layer.weights else None
    assert np.allclose(logits(model, images), logits(plain, images), atol=1e-6)
    assert np.array_equal(logits(plain, images, training=True), logits(plain, images))
    assert np.abs(logits(model, images, training=True) - logits(model, images)).max() > 1e-3


@pytest.mark.backends
@pytest.mark.parametrize("augmentation", ["affine", "layers"])
def test_a_saved_model_gives_the_same(
    tmp_path: Path, images: np.ndarray, augmentation: str
) -> None:
    model = build_model(replace(TINY, augmentation=augmentation))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(logits(again, images), logits(model, images))


@pytest.mark.backends
@pytest.mark.parametrize("augmentation", ["affine", "layers", "none"])
def test_every_augmentation_trains(digits: Dataset, augmentation: str) -> None:
    model = build_model(replace(TINY, augmentation=augmentation))
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile(),
    )
    before = [weight.copy() for weight in model.get_weights()]
    model.fit(digits.train.images[:32], digits.train.labels[:32], batch_size=32, verbose=0)
    changed = zip(before, model.get_weights(), strict=True)
    assert all(np.isfinite(new).all() for _, new in changed)
    assert sum(
        not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True)
    )


@pytest.mark.backends
@pytest.mark.parametrize("augmentation", ["affine", "layers"])
def test_the_inference_model_is_the_network_without_random_layers(
    images: np.ndarray, augmentation: str
) -> None:
    model = build_model(replace(TINY, augmentation=augmentation))
    inference = build_inference_model(model)
    assert not any("random" in layer.name for layer in inference.layers)
    probabilities = inference.predict_on_batch(images)
    expected = np.exp(logits(model, images).astype(float))
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities, expected, atol=1e-6)


@pytest.mark.backends
def test_a_folded_temperature_divides_the_logits(images: np.ndarray) -> None:
    model = build_model(TINY)
    before = logits(model, images)
    fold_temperature(model, 1.7)
    assert np.allclose(logits(model, images), before / 1.7, atol=1e-5)
