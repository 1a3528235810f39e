"""All of the package's layers, under the name that saved models know.

A `.keras` file names the module of each of its layers, and Keras imports it; files that were saved
before the layers moved name this one.
"""

from keras_digitnet.networks.augmentation import (
    RandomAffine,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
)
from keras_digitnet.networks.corruption import RandomDegradation, RandomPen
from keras_digitnet.networks.layers import DepthwiseConv2D, GrowTo

__all__ = [
    "DepthwiseConv2D",
    "GrowTo",
    "RandomAffine",
    "RandomDegradation",
    "RandomPen",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
]
