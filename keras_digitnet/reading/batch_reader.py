"""Reads pictures in batches, for the workers of a data pipeline: Ray Data, Spark, Daft, pandas."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_digitnet.pictures.sources import BYTES, NamedBytes
from keras_digitnet.reading.answers import predict_files, read_files
from keras_digitnet.reading.inference import load
from keras_digitnet.reading.pipeline import as_pipeline


class BatchReader:
    """Reads batches of pictures, as Ray Data's `map_batches` and pandas UDFs pass them.

    Create one in each worker, since models cannot be pickled, and call it with
    each batch. It computes on one thread: start one worker per processor.

    Args:
        model: The model that classifies the digits, as for `load`; by default
            the shipped reader and `base` together.
        one_digit: Whether each picture shows one digit, as for `predict`.
        backend: As for `load`.

    Raises:
        DigitNetError: There is no such model.
    """

    def __init__(
        self, model: str | Path | None = None, one_digit: bool = False, backend: str | None = None
    ) -> None:
        loaded = load(model, backend, threads=1) if model else None
        self._pipeline = as_pipeline(loaded, backend=backend, threads=1)
        self._one_digit = one_digit

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """Reads one batch; a picture that cannot be read becomes a row with an `error`.

        Args:
            batch: `bytes`, the contents of N picture files, and `path`, their
                names.

        Returns:
            Arrays of shape `(N,)`: `path`, `text` (or `label` with
            `one_digit`) and `error` of str, empty without an error, and
            `confidence` of float32, 0 with an error.
        """
        paths = [str(path) for path in batch["path"]]
        pictures = [  # content of another type, such as pandas' NaN, is a missing picture
            NamedBytes(bytes(content) if isinstance(content, BYTES) else b"", path)
            for content, path in zip(batch["bytes"], paths, strict=True)
        ]
        if self._one_digit:
            answers = [
                (each.label, each.confidence, each.error)
                for each in predict_files(self._pipeline, pictures)
            ]
        else:
            answers = [
                (each.reading.text, each.reading.confidence, "")
                if each.reading
                else ("", 0.0, each.error)
                for each in read_files(self._pipeline, pictures)
            ]
        texts, confidences, errors = zip(*answers, strict=True) if answers else ((), (), ())
        return {
            "path": np.array(paths, object),
            "label" if self._one_digit else "text": np.array(texts, object),
            "confidence": np.array(confidences, np.float32),
            "error": np.array(errors, object),
        }
