"""Loads, checks and splits labelled images."""

from keras_digitnet.data.loading import is_available_offline, load_dataset
from keras_digitnet.data.splits import Dataset, Split

__all__ = ["Dataset", "Split", "is_available_offline", "load_dataset"]
