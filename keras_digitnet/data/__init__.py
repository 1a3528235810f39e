"""Every way that labelled images come in, and every check of them."""

from keras_digitnet.data.loading import is_at_hand, load_dataset
from keras_digitnet.data.splits import Dataset, Split

__all__ = ["Dataset", "Split", "is_at_hand", "load_dataset"]
