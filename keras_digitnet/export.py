"""A trained model to the forms that others run; each is loaded again before it counts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_digitnet.artifacts import written_whole
from keras_digitnet.data import load_dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.model import IMAGE_SHAPE, build_inference_model, jit_compile

# The most that a probability may differ from the Keras model's.
TOLERANCE = 1e-5


def export_saved_model(model_path: Path, servable_dir: Path) -> Path:
    """Writes `<servable_dir>/<next integer>/`, a SavedModel as TF Serving wants it.

    Its `serving_default` takes `images`, `(N, 28, 28, 1)` uint8, and gives
    `probabilities`, `(N, C)` float32, and `label`, `(N,)` int32. The
    `config.json` beside the model goes along into `assets.extra`.

    Only TensorFlow writes it soundly, so under another backend a child process
    that runs on TensorFlow does; a `.keras` file loads under all of them.

    Args:
        model_path: A `.keras` file.
        servable_dir: The folder that a server polls for versions.

    Returns:
        The folder of the new version.

    Raises:
        DigitNetError: It cannot be written, or what was written does not agree
            with the Keras model.
    """
    if keras.backend.backend() != "tensorflow":
        return _export_in_tensorflow(model_path, servable_dir)
    version_dir = servable_dir / str(_next_version(servable_dir))
    inference = build_inference_model(keras.saving.load_model(model_path, compile=False))
    archive = keras.export.ExportArchive()
    archive.track(inference)
    signature = [keras.InputSpec(shape=(None, *IMAGE_SHAPE), dtype="uint8", name="images")]
    archive.add_endpoint("serve", inference.__call__, signature)
    inference.compile(jit_compile=jit_compile())
    with written_whole(version_dir) as temporary:
        archive.write_out(str(temporary), verbose=False)
        config_path = model_path.with_name("config.json")
        if config_path.is_file():
            (temporary / "assets.extra").mkdir()
            shutil.copy(config_path, temporary / "assets.extra" / "config.json")
        if difference := _difference_of_saved_model(temporary, inference):
            raise DigitNetError(f"{version_dir}: {difference} It was not kept.")
    return version_dir


def _difference_of_saved_model(path: Path, inference: keras.Model) -> str | None:
    import tensorflow

    images = load_dataset("digits").test.images
    served = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
    received = served(images=tensorflow.constant(images))
    return _difference(received, inference.predict_on_batch(images))


def _difference(received: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """`None` where both give the same labels and, within `TOLERANCE`, probabilities."""
    gap = np.abs(np.subtract(received["probabilities"], expected["probabilities"])).max()
    differing = int(np.not_equal(received["label"], expected["label"]).sum())
    if gap <= TOLERANCE and not differing:
        return None
    return (
        f"expected the Keras model's labels, and its probabilities within {TOLERANCE}; "
        f"received: {differing} other labels, a difference of {gap:.1e}."
    )


def _next_version(servable_dir: Path) -> int:
    if not servable_dir.is_dir():
        return 1
    versions = [int(entry.name) for entry in servable_dir.iterdir() if entry.name.isdecimal()]
    return max(versions, default=0) + 1


def _export_in_tensorflow(model_path: Path, servable_dir: Path) -> Path:
    """Runs this room as a program; its last line of output is the new folder or the error."""
    child = subprocess.run(
        [sys.executable, "-m", "keras_digitnet.export", str(model_path), str(servable_dir)],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (child.stdout if child.returncode == 0 else child.stderr).strip().splitlines()
    if child.returncode != 0 or not lines:
        reason = lines[-1] if lines else f"exit code {child.returncode}"
        raise DigitNetError(f"The export in a TensorFlow process failed: {reason}")
    return Path(lines[-1])


if __name__ == "__main__":
    try:
        print(export_saved_model(Path(sys.argv[1]), Path(sys.argv[2])))
    except DigitNetError as error:
        sys.exit(str(error))
