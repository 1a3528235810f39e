"""DigitNet: a ConvNeXt-inspired reader of handwritten digits in Keras 3.

    import keras_digitnet as kd

    kd.load("base").predict(images).labels
    kd.read("amount.jpg").text
    run = kd.train(kd.TrainConfig(preset="base"))
    kd.export_model(run.model_path, "exports", ["onnx"])

The names below are imported when they are first used, so that importing the
package costs nothing and leaves the choice of Keras's backend open.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_digitnet.config import PRESETS, ModelConfig, ReaderConfig, TrainConfig
    from keras_digitnet.data import Dataset, Split, load_dataset
    from keras_digitnet.errors import DigitNetError
    from keras_digitnet.evaluation import Report, evaluate
    from keras_digitnet.export import Artifact, export_model
    from keras_digitnet.networks.classifier import build_model
    from keras_digitnet.reading.batch_reader import BatchReader
    from keras_digitnet.reading.finding import Reader
    from keras_digitnet.reading.inference import Classifier, Predictions, average, load
    from keras_digitnet.reading.reader import normalize_digit, read
    from keras_digitnet.reading.results import Digit, Reading
    from keras_digitnet.training import Run, TrainingInterrupted, resume, train

__version__ = "0.1.0"

_MODULE_OF = {
    "BatchReader": "reading.batch_reader",
    "Artifact": "export",
    "export_model": "export",
    "PRESETS": "config",
    "ModelConfig": "config",
    "ReaderConfig": "config",
    "TrainConfig": "config",
    "Dataset": "data",
    "Split": "data",
    "load_dataset": "data",
    "DigitNetError": "errors",
    "Report": "evaluation",
    "evaluate": "evaluation",
    "Classifier": "reading.inference",
    "Predictions": "reading.inference",
    "average": "reading.inference",
    "load": "reading.inference",
    "build_model": "networks.classifier",
    "normalize_digit": "reading.reader",
    "Reader": "reading.finding",
    "Digit": "reading.results",
    "Reading": "reading.results",
    "read": "reading.reader",
    "Run": "training",
    "TrainingInterrupted": "training",
    "resume": "training",
    "train": "training",
}

# They import Keras, for which a backend must be chosen first.
_KERAS_MODULES = {"export", "networks.classifier", "training"}

__all__ = [
    "PRESETS",
    "Artifact",
    "BatchReader",
    "Classifier",
    "Dataset",
    "Digit",
    "DigitNetError",
    "ModelConfig",
    "Predictions",
    "Reader",
    "ReaderConfig",
    "Reading",
    "Report",
    "Run",
    "Split",
    "TrainConfig",
    "TrainingInterrupted",
    "average",
    "build_model",
    "evaluate",
    "export_model",
    "load",
    "load_dataset",
    "normalize_digit",
    "read",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_MODULE_OF[name]}"
    if _MODULE_OF[name] in _KERAS_MODULES and module not in sys.modules:
        importlib.import_module(f"{__name__}.environment").select_backend()
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
