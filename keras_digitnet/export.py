"""Exports a trained model: each format is written, opened again and compared with Keras."""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_digitnet.artifacts import (
    class_names,
    copy_config,
    expanded,
    publish_files,
    publish_version,
    read_json,
    temporary_beside,
)
from keras_digitnet.data import Dataset, is_available_offline, load_dataset
from keras_digitnet.environment import import_extra, suppress_native_stderr
from keras_digitnet.errors import DigitNetError, first_line
from keras_digitnet.formats import SAVED_MODEL, Format, chosen_formats, keras_file
from keras_digitnet.formats.reference import ENOUGH_IMAGES, ReaderReference, Reference
from keras_digitnet.formats.runtime import Runtime
from keras_digitnet.reading.finding import canvas
from keras_digitnet.reading.inference import find_keras_file
from keras_digitnet.written_lines import write_line

logger = logging.getLogger(__name__)

_BATCH = 500
_PAGES = 32


@dataclass(frozen=True)
class Artifact:
    """One exported model and how it compares with the Keras model.

    Attributes:
        format: The name of its `Format`.
        path: The file, or the folder of the SavedModel's version.
        size: Size of all its files, in bytes.
        compared_on: The data set on whose test images it was compared.
        images: Number of images compared; for a reader, of pages.
        difference: The largest difference of a probability or presence.
        same_labels: Number of images with the same label in both; for a reader,
            of pages on which both find the same characters.
    """

    format: str
    path: Path
    size: int
    compared_on: str
    images: int
    difference: float
    same_labels: int

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON types."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def export_model(
    model: str | Path, out_dir: str | Path, formats: Sequence[str] = ("saved_model",)
) -> list[Artifact]:
    """Writes `model` in other formats into a folder, with a `config.json` of its class names.

    `digitnet/<next integer>/` is a SavedModel for TF Serving, the others are
    `model.onnx`, `model.tflite`, `model_int8.tflite` and `model.xml` with
    `model.bin`. A classifier takes `images`, `(N, 28, 28, 1)` uint8, and returns
    `probabilities`, `(N, C)` float32, and `label`, `(N,)` int32. Each is loaded
    again in its own runtime and compared with the Keras model on the test
    images of the run's data set, or else on the bundled digits; exports that
    fail this verification are deleted.

    Export needs the TensorFlow backend; under another one it runs in a child
    process.

    Args:
        model: A preset's name, the folder of a run, or a `.keras` file.
        out_dir: Where the files go; those of the same names are replaced.
        formats: One or some of `EXPORT_FORMATS`, or `all` alone, which excludes
            `litert_int8`: weights and most activations in int8, calibrated on
            training images. A reader cannot be exported to LiteRT.

    Returns:
        One `Artifact` per format.

    Raises:
        DigitNetError: There is no such model or format, a package is missing,
            or an export does not agree with the Keras model.
    """
    keras_path, out_dir = find_keras_file(model), expanded(out_dir)
    formats = [formats] if isinstance(formats, str) else list(formats)
    chosen = chosen_formats(formats)
    if keras.backend.backend() != "tensorflow":
        artifacts = _export_in_tensorflow(keras_path, out_dir, formats)
        for artifact in artifacts:
            _announce(artifact)
        return artifacts
    _require_packages(chosen)
    reference = _open(keras_path)
    if isinstance(reference, ReaderReference):
        chosen = chosen_formats(formats, of_reader=True)
        if formats == ["all"]:
            logger.info("Skipped LiteRT: its sizes are fixed, and a reader's pages have any size.")
    if chosen != [SAVED_MODEL]:  # a SavedModel holds its own config.json
        _refuse_other_names(out_dir, reference)
    artifacts = []
    for form in chosen:
        artifacts.append(_exported(form, reference, out_dir))
        _announce(artifacts[-1])
    return artifacts


def _announce(artifact: Artifact) -> None:
    logger.info("Written and verified: %s", artifact.path)
    if artifact.format == "litert_int8" and artifact.images < ENOUGH_IMAGES:
        logger.info(
            "The %s test images of %s are too few to measure what int8 costs: only those on which "
            "the Keras model is confident were compared. Measure it with: keras-digitnet evaluate "
            "%s --data mnist",
            f"{artifact.images:,}",
            artifact.compared_on,
            artifact.path,
        )


def _require_packages(chosen: list[Format]) -> None:
    """Imports all packages that are needed, before anything is written."""
    for form in chosen:
        for module, extra in form.needs.items():
            with suppress_native_stderr():
                import_extra(module, extra)


# The reference


def _open(keras_path: Path) -> Reference:
    inference = keras_file.load_inference_model(keras_path)
    runtime = keras_file.runtime_of(keras_path, inference)
    dataset = _dataset_of(keras_path)
    batches = _pages(dataset) if runtime.is_reader else _batches(dataset)
    kind = ReaderReference if runtime.is_reader else Reference
    return kind(
        keras_path,
        inference,
        class_names(keras_path.parent, runtime.num_classes),
        dataset,
        batches,
        tuple(runtime.predict_batch(batch) for batch in batches),
    )


def _batches(dataset: Dataset) -> tuple[np.ndarray, ...]:
    images = dataset.test.images
    return tuple(images[start : start + _BATCH] for start in range(0, len(images), _BATCH))


def _pages(dataset: Dataset) -> tuple[np.ndarray, ...]:
    """Lines of test images at a reader's scale, one per batch since their sizes differ."""
    random = np.random.default_rng(0)
    lines = (write_line(dataset.test, random) for _ in range(_PAGES))
    return tuple(canvas(line.picture, 24 / line.picture.shape[0], as_edge=True) for line in lines)


def _dataset_of(keras_path: Path) -> Dataset:
    """The run's data set, else the bundled digits."""
    # A foreign config.json, or images that have changed since, must not fail the export.
    known = (DigitNetError, KeyError, TypeError, ValueError, RuntimeError, OSError)
    with contextlib.suppress(*known), _without_warnings("keras_digitnet.data"):
        settings = read_json(keras_path.with_name("config.json"))["train"]
        if is_available_offline(settings["data"]):
            return load_dataset(
                settings["data"],
                seed=settings["seed"],
                validation_size=settings["validation_size"],
            )
    return load_dataset("digits")


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Silences a logger's warnings: the training run has already logged those on its images."""
    quiet = logging.getLogger(name)
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)


def _refuse_other_names(out_dir: Path, reference: Reference) -> None:
    """Raises DigitNetError if the folder's `config.json` belongs to a model with other classes."""
    if (
        out_dir.resolve() == reference.path.parent.resolve()
        or not (out_dir / "config.json").exists()
    ):
        return
    if (out_dir / reference.path.name).exists():
        raise DigitNetError(
            f"{out_dir}: expected a folder for exports; received: that of another "
            f"{reference.path.name}. Choose another folder."
        )
    found = class_names(out_dir, reference.num_classes)
    if found is None or found != reference.classes:
        raise DigitNetError(
            f"{out_dir / 'config.json'}: expected the classes of the exported model, "
            f"{reference.classes}; received: {found}. Choose another folder."
        )


# Each format


def _exported(form: Format, reference: Reference, out_dir: Path) -> Artifact:
    """Writes one format to a temporary folder, verifies it, and moves it to its final path."""
    with temporary_beside(out_dir / form.file) as folder:
        folder.mkdir()
        _write(form, reference, folder / form.file)
        artifact = _verified(form, reference, folder, form.open(folder / form.file))
        return dataclasses.replace(artifact, path=_published(form, reference, folder, out_dir))


def _write(form: Format, reference: Reference, path: Path) -> None:
    try:
        form.write(reference, path)
    except (DigitNetError, OSError):
        raise
    except Exception as error:  # converters raise exceptions of any type
        raise DigitNetError(
            f"{form.name}: expected a model that this format supports; received: "
            f"{first_line(error)}"
        ) from error


def _verified(form: Format, reference: Reference, folder: Path, runtime: Runtime) -> Artifact:
    """Describes the export in the folder.

    Raises:
        DigitNetError: It does not agree with the Keras model.
    """
    answers = [runtime.predict_batch(batch) for batch in reference.batches]
    difference, same, problem = reference.compared(form, answers)
    if problem:
        raise DigitNetError(f"{form.file}: {problem} It was deleted.")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    count = sum(map(len, reference.batches))
    return Artifact(form.name, folder, size, reference.dataset.name, count, difference, same)


def _published(form: Format, reference: Reference, folder: Path, out_dir: Path) -> Path:
    if form is SAVED_MODEL:
        copy_config(reference.path.parent, folder / form.file / "assets.extra")
        return publish_version(folder / form.file, out_dir / form.file)
    copy_config(reference.path.parent, out_dir)
    publish_files(folder, out_dir, last=form.file)
    return out_dir / form.file


# Under another backend


def _export_in_tensorflow(keras_path: Path, out_dir: Path, formats: list[str]) -> list[Artifact]:
    """Runs this module as a program, whose last line of output is the artifacts or the error.

    The child exits when its stdin is closed, which happens even if this process
    is killed: otherwise it could publish beside the export of a resumed run.
    """
    arguments = json.dumps([str(keras_path), str(out_dir), formats])
    stdin, held_open = os.pipe()
    try:
        child = subprocess.run(
            [sys.executable, "-m", "keras_digitnet.export", arguments],
            env=os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(stdin)
        os.close(held_open)
    try:
        answer = json.loads(child.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": f"it exited with code {child.returncode} without a message"}
    if "error" in answer:
        raise DigitNetError(f"The export in a TensorFlow process failed: {answer['error']}")
    return [Artifact(**{**row, "path": Path(row["path"])}) for row in answer["artifacts"]]


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        artifacts = export_model(*json.loads(sys.argv[1]))
        answer: dict[str, Any] = {"artifacts": [artifact.to_json() for artifact in artifacts]}
    except (DigitNetError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
