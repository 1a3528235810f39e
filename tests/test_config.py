import fractions
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_digitnet.config import PRESETS, ModelConfig, TrainConfig
from keras_digitnet.errors import DigitNetError


def test_json_round_trip() -> None:
    config = TrainConfig(
        preset="nano", seed=7, learning_rate=0.1, model=ModelConfig(widths=(8,), depths=(1,))
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_without_a_network_takes_the_presets() -> None:
    config = TrainConfig(preset="nano")
    assert config.network == PRESETS["nano"].model
    assert config.peak_learning_rate == PRESETS["nano"].learning_rate


@pytest.mark.parametrize(("epochs", "patience"), [(1, 5), (10, 5), (60, 30)])
def test_patience_grows_with_the_epochs(epochs: int, patience: int) -> None:
    assert TrainConfig(epochs=epochs).completed("mnist", 10).patience == patience
    assert TrainConfig(epochs=epochs, patience=3).completed("mnist", 10).patience == 3


@pytest.mark.parametrize(
    ("preset", "most"), [("nano", 10_000), ("small", 65_000), ("base", 500_000)]
)
def test_presets_have_the_documented_size(preset: str, most: int) -> None:
    assert PRESETS[preset].parameters <= most


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "huge"}, "preset: expected one of nano, small, base.*; received: 'huge'"),
        ({"preset": "Smal"}, "received: 'Smal'. Did you mean small"),
        ({"epochs": 0}, "epochs: expected a whole number of 1 or more; received: 0"),
        ({"epochs": 2.5}, "epochs: expected a whole number"),
        ({"epochs": True}, "epochs: expected a whole number"),
        ({"patience": 0}, "patience: expected a whole number of 1 or more; received: 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number"),
        ({"warmup_epochs": 11}, "warmup_epochs: expected a number from 0 to 10; received: 11"),
        ({"validation_size": 1.0}, "validation_size"),
        ({"seed": -1}, "seed: expected 0 to 4294967295; received: -1"),
        ({"data": ""}, "data"),
        ({"test": 1}, "test: expected true or false"),
        ({"model": 3}, "model: expected a ModelConfig"),
    ],
)
def test_an_invalid_run_setting_is_one_message(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DigitNetError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"widths": ()},
        {"widths": (8, -1)},
        {"widths": "88"},
        {"depths": (1,)},
        {"augmentation": "mixup"},
        {"rotation": 181},
        {"num_classes": 1},
        {"kernel_size": 0},
        {"shear": -0.1},
        {"elastic": 6},
        {"pen": 1.1},
        {"degradation": 1.1},
    ],
)
def test_an_invalid_network_setting_is_one_message(values: dict[str, Any]) -> None:
    with pytest.raises(DigitNetError, match=f"{next(iter(values))}: expected .* received: "):
        ModelConfig(**values)


@pytest.mark.parametrize("values", [None, [], {}, {"preset": "nano", "colour": "red"}])
def test_json_of_another_kind_is_refused(values: Any) -> None:
    with pytest.raises(DigitNetError, match="TrainConfig: expected"):
        TrainConfig.from_json(values)


class Fraction:
    """Scalars of NumPy, torch and JAX, also as elements of a list."""

    def tolist(self) -> float:
        return 0.25


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("seed", np.int64(3), 3),
        ("epochs", np.uint8(2), 2),
        ("batch_size", np.array(64), 64),
        ("patience", np.int32(7), 7),
        ("learning_rate", np.float32(0.5), 0.5),
        ("warmup_epochs", fractions.Fraction(1, 2), 0.5),
        ("weight_decay", np.float16(0.25), 0.25),
        ("validation_size", Fraction(), 0.25),
        ("test", np.False_, False),
        ("preset", np.str_("small"), "small"),
        ("data", Path("some/folder"), str(Path("some/folder"))),
    ],
)
def test_numbers_of_other_libraries_are_accepted(field: str, value: Any, plain: Any) -> None:
    """Hyperparameter sweeps pass such values, which are stored in `config.json`."""
    config = TrainConfig(**{field: value})
    assert (getattr(config, field), type(getattr(config, field))) == (plain, type(plain))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_networks_settings_may_be_numpy_scalars() -> None:
    config = ModelConfig(widths=np.array([8, 16]), depths=(np.int64(1), 2), rotation=np.float32(5))
    assert config == ModelConfig(widths=(8, 16), depths=(1, 2), rotation=5.0)
    assert json.loads(json.dumps(config.to_json()))["widths"] == [8, 16]
    for value in (np.nan, np.float64("inf"), np.array([1, 2]), np.array("x")):
        with pytest.raises(DigitNetError, match="epochs: expected a whole number"):
            TrainConfig(epochs=value)
