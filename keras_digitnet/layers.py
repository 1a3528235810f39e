"""All layers of the package, under the module name that older saved models refer to.

A `.keras` file names the module of each of its layers, which Keras imports; files saved before the
layers moved to `networks/` name this one.
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
