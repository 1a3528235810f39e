"""`.keras` files, which are checked for foreign code before they are loaded; on any backend."""

import io
import json
import math
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.artifacts import MAX_UNPACKED
from keras_digitnet.config import STRIDE
from keras_digitnet.environment import select_backend
from keras_digitnet.errors import DigitNetError
from keras_digitnet.formats.runtime import (
    IMAGES,
    PAGES,
    READER_OUTPUTS,
    Compute,
    Runtime,
    in_turns,
    loading,
    require_finite,
    require_process,
)

if TYPE_CHECKING:
    import keras


def open_model(path: Path, threads: int | None = None) -> Runtime:
    """Opens a `.keras` file on the current backend, or selects one if Keras is not imported yet."""
    require_process(path)
    return runtime_of(path, load_inference_model(path))


def runtime_of(path: Path, inference: "keras.Model") -> Runtime:
    """The runtime of a network that `load_inference_model` has loaded from the path."""
    if isinstance(inference.output, dict):
        num_classes = inference.output["probabilities"].shape[-1]
        pages = _in_keras(path, _page_reader(inference))
        return Runtime(str(path), pages, num_classes, READER_OUTPUTS)

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities = np.asarray(inference.predict_on_batch(images))
        return probabilities, probabilities.argmax(axis=1)

    return Runtime(str(path), _in_keras(path, compute), inference.output_shape[1])


def _in_keras(path: Path, compute: Compute) -> Compute:
    """Serializes calls, since Keras's trainer keeps state, and refuses forked processes."""
    one_by_one = in_turns(compute)

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        require_process(path)
        return one_by_one(images)

    return predict_batch


def _page_reader(inference: "keras.Model") -> Compute:
    """Computes pages of any size.

    JAX compiles once per shape, so there pages are padded at the bottom and
    right to one of a few sizes, by repeating their edges.
    """
    import keras

    in_few_shapes = keras.backend.backend() == "jax"

    def predict_batch(pages: np.ndarray) -> tuple[np.ndarray, ...]:
        height, width = pages.shape[1:3]
        if in_few_shapes:
            more = [(0, _fixed_side(side) - side) for side in (height, width)]
            pages = np.pad(pages, ((0, 0), *more, (0, 0)), mode="edge")
        found = inference.predict_on_batch(pages)
        cells = np.s_[:, : -(-height // STRIDE), : -(-width // STRIDE)]
        return tuple(np.asarray(found[name])[cells] for name in READER_OUTPUTS)

    return predict_batch


def _fixed_side(side: int) -> int:
    """The next of 64, 96, 128, 192, 256, 384 and so on."""
    power = 1 << max(side - 1, 63).bit_length()
    return next(fixed for fixed in (power * 3 // 4, power) if fixed >= side)


def load_inference_model(path: Path) -> "keras.Model":
    """Loads the network in a `.keras` file in its deployed form, compiled, in float32.

    A classifier returns probabilities, a reader the outputs of
    `build_detection_model`.

    No code in the file is executed: Lambda layers, and classes other than
    Keras's and this package's, are refused. So are archives that unpack to more
    than `MAX_UNPACKED` bytes, and networks whose weights would take more.

    Raises:
        DigitNetError: The file is not such a network.
    """
    model = load_keras_model(path)
    from keras_digitnet.networks.blocks import jit_compile
    from keras_digitnet.networks.classifier import build_inference_model
    from keras_digitnet.networks.detector import build_detection_model

    for layer in model.layers:
        if layer.dtype_policy.name.startswith("mixed_"):  # its weights are float32
            layer.dtype_policy = "float32"
    with loading(path, "a model that kd.build_model has built"):
        build = build_detection_model if _is_detector(model) else build_inference_model
        inference = build(model)
    inference.compile(jit_compile=jit_compile())
    return inference


def load_keras_model(path: Path) -> "keras.Model":
    """Loads the network in a `.keras` file as it is stored, with logits or cells as output.

    Raises:
        DigitNetError: The file is not a classifier or reader, or is unsafe to load.
    """
    if "keras" not in sys.modules:
        select_backend()
    import keras

    import keras_digitnet.layers  # noqa: F401  (registers them with Keras)

    with loading(path, "a .keras model that Keras can load"):
        _inspect_archive(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    inputs = [(tensor.dtype, tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    outputs = [(tensor.dtype, tensor.shape) for tensor in getattr(model, "outputs", None) or ()]
    single = [("float32", (None, *shape[1:])) for _, shape in outputs if len(shape) == 2]
    cells = [("float32", (None, None, None, max(shape[-1] or 0, 7))) for _, shape in outputs]
    if len(outputs) != 1 or (inputs, outputs) not in (([IMAGES], single), ([PAGES], cells)):
        raise DigitNetError(
            f"{path}: expected a model from (N, 28, 28, 1) uint8 images to (N, C) float32 logits, "
            "or a reader from (N, H, W, 1) uint8 images to (N, H/4, W/4, 5 + C) float32 cells; "
            f"received: one from {inputs} to {outputs}."
        )
    require_finite(path, map(keras.ops.convert_to_numpy, model.weights))
    return model


def _is_detector(model: "keras.Model") -> bool:
    return len(model.outputs[0].shape) == 4


def _inspect_archive(path: Path) -> None:
    """Raises ValueError for an archive that must not be unpacked, or a network not to build."""
    import h5py

    unpacked = "an archive that unpacks to"
    with zipfile.ZipFile(path) as archive:
        _refuse_size(unpacked, sum(member.file_size for member in archive.infolist()))
        # Parsed JSON, such as `[[],[],...`, takes up to 20 times the memory of its text.
        _refuse_size("a config that may fill", 20 * archive.getinfo("config.json").file_size)
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    sizes: list[int] = []  # arrays may be compressed inside the archive
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    _refuse_size(unpacked, sum(sizes))
    _refuse_foreign_code(config)
    with ThreadPoolExecutor(1) as thread:
        _refuse_size("a network with weights of", thread.submit(_size_of_weights, config).result())


def _size_of_weights(config: Any) -> int:
    """The size of the network's weights in bytes, without allocating them.

    Keras records uninitialized variables per thread, so call this in a thread
    that ends.
    """
    import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config | {"compile_config": None})
    return sum(4 * math.prod(weight.shape) for weight in getattr(model, "weights", ()))


def _refuse_size(what: str, size: int) -> None:
    if size > MAX_UNPACKED:
        raise ValueError(f"{what} {size:,} bytes; at most {MAX_UNPACKED:,} are allowed")


def _refuse_foreign_code(config: Any) -> None:
    """Raises ValueError for foreign classes. Keras refuses them too, but may not say which."""
    import keras

    if isinstance(config, list):
        for item in config:
            _refuse_foreign_code(item)
    elif isinstance(config, dict):
        name, module = str(config.get("class_name")), str(config.get("module") or "keras")
        ours = keras.saving.get_registered_object(str(config.get("registered_name")))
        if name == "Lambda":
            raise ValueError("a Lambda layer, which holds code")
        if ours is None and module.partition(".")[0] not in ("keras", "builtins"):
            raise ValueError(f"the class {module}.{name}, which is neither Keras's nor ours")
        for item in config.values():
            _refuse_foreign_code(item)
