"""Training that starts from a trained model."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from test_detector import TINY_READER
from test_folding import with_random_weights

from keras_digitnet.config import ModelConfig, ReaderConfig
from keras_digitnet.errors import DigitNetError
from keras_digitnet.networks.blocks import fold_temperature
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.networks.detector import build_detector, fold_presence
from keras_digitnet.training.run import _load_start

pytestmark = pytest.mark.backends

CLASSIFIER = ModelConfig(widths=(4, 6), depths=(1, 1), augmentation="none")
DIGITS = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8)


def build(config: ModelConfig | ReaderConfig) -> keras.Model:
    return build_detector(config) if isinstance(config, ReaderConfig) else build_model(config)


@pytest.mark.parametrize(
    ("config", "more"),
    [(TINY_READER, (1, 3, 2)), (CLASSIFIER, (2, 3))],
    ids=["reader", "classifier"],
)
def test_training_starts_from_the_uncalibrated_model_and_may_add_blocks(
    config: ModelConfig | ReaderConfig, more: tuple[int, ...], tmp_path: Path
) -> None:
    trained = with_random_weights(build(config))
    answers = trained.predict(DIGITS, verbose=0)
    calibration = {"temperature": 0.8}
    fold_temperature(trained, 0.8)
    if config is TINY_READER:
        calibration |= {"presence_scale": 2.5, "presence_shift": 0.75}
        fold_presence(trained, 2.5, 0.75)
    trained.save(tmp_path / "model.keras")
    (tmp_path / "metrics.json").write_text(json.dumps(calibration))
    assert not np.allclose(trained.predict(DIGITS, verbose=0), answers, atol=1e-3)
    for depths in (config.depths, more):
        model = build(replace(config, depths=depths))
        _load_start(model, str(tmp_path))
        assert np.allclose(model.predict(DIGITS, verbose=0), answers, atol=1e-4)


@pytest.mark.parametrize("other", [{"widths": (8, 6)}, {"widths": (4,), "depths": (1,)}])
def test_another_network_is_refused(other: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    build(replace(CLASSIFIER, **other)).save(tmp_path / "model.keras")
    model = build(CLASSIFIER)
    before = model.get_weights()
    with pytest.raises(
        DigitNetError, match=r"start: expected a model of the same network, with \d"
    ):
        _load_start(model, str(tmp_path))
    assert all(map(np.array_equal, before, model.get_weights()))
