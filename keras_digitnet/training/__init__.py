"""Training runs: `train` and `resume`."""

from keras_digitnet.training.callbacks import TrainingInterrupted
from keras_digitnet.training.run import Run, resume, train

__all__ = ["Run", "TrainingInterrupted", "resume", "train"]
