"""Trains tiny networks, possibly in one of several processes.

    python tests/train_distributed.py FOLDER DATA DEVICES EPOCHS STOP_AFTER PRESET...

prints the losses, one line of JSON per preset.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_digitnet import distribution, training
from keras_digitnet.config import PRESETS, ModelConfig, ReaderConfig, TrainConfig
from keras_digitnet.environment import set_backend
from keras_digitnet.training import tasks


def tiny(preset: str, data: str, epochs: int) -> TrainConfig:
    network = PRESETS[preset].model
    if isinstance(network, ModelConfig):
        network = replace(network, widths=(4, 6), depths=(1, 1), pen=0.3)
    else:
        sizes: dict[str, Any] = {"widths": (4, 6), "depths": (1, 1, 1), "expansion": 2}
        network = replace(network, **sizes, pages=32, validation_pages=9)
    return TrainConfig(
        preset=preset,
        data=data,
        validation_size=0.25,
        epochs=epochs,
        patience=epochs,
        batch_size=8 if isinstance(network, ReaderConfig) else 32,
        min_images_per_epoch=160,
        export=False,
        test=False,
        model=network,
    )


tasks._LINES = 4  # an untrained reader takes minutes for the usual number


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_training = epoch + 1 == self.epochs


def losses(
    folder: Path, data: object, devices: str, epochs: int, stop_after: int, preset: str
) -> Any:
    """`loss` and `val_loss` of each epoch; resumes the run in the folder, if there is one."""
    options: Any = {"verbose": 0, "callbacks": [StopAfter(stop_after)], "devices": devices}
    if begun := list(folder.glob("*/config.json")):
        run = training.resume(begun[0].parent, **options)
    else:
        run = training.train(tiny(preset, str(data), epochs), out_dir=folder, **options)
    assert run.validation.to_json()
    return [[row["loss"], row["val_loss"]] for row in run.history]


if __name__ == "__main__":
    set_backend("jax")
    folder, data, devices, epochs, stop_after, *presets = sys.argv[1:]
    distribution.join()
    for preset in presets:
        found = losses(Path(folder, preset), data, devices, int(epochs), int(stop_after), preset)
        print(json.dumps(found), flush=True)
