"""The programs that run a trained model: each opens its own kind of file.

What comes out is the same whatever opened it: batches of images to
probabilities and labels. Every file is checked to be a digit reader before it
reads anything.
"""

import contextlib
import io
import json
import math
import os
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.artifacts import MOST_UNPACKED
from keras_digitnet.environment import (
    devices,
    import_extra,
    import_runtime,
    require_tensorflow,
    select_backend,
    suppress_native_stderr,
)
from keras_digitnet.errors import DigitNetError, first_line

if TYPE_CHECKING:
    import keras

MOST_CLASSES = 10_000
# Of one model, where each computes for one thread at a time: more take memory and no less time.
MOST_WORKERS = 4

Compute = Callable[[np.ndarray], tuple[np.ndarray, ...]]
Shape = tuple[int | None, ...]
Signature = Mapping[str, tuple[str, Shape]]

_IMAGES: tuple[str, Shape] = ("uint8", (None, 28, 28, 1))
_PAGES: tuple[str, Shape] = ("uint8", (None, None, None, 1))


# What a classifier and a reader give, by name; see `Runtime`.
CLASSIFIER_OUTPUTS = ("probabilities", "label")
READER_OUTPUTS = ("presence", "boxes", "probabilities")


@dataclass(frozen=True)
class Runtime:
    """An opened model: a classifier of digits, or a reader that finds them.

    Attributes:
        name: What messages call it: a file or an address.
        predict_batch: Images, N at least 1, to the outputs; any number of threads
            may call it at once. A classifier takes
            `(N, 28, 28, 1)` uint8 and gives probabilities `(N, C)` float32 and
            labels `(N,)` integers; a reader takes `(N, H, W, 1)` uint8 and gives
            what `detector.build_detection_model` says.
        num_classes: C.
        outputs: Which of the two it is: their names, in their order.
    """

    name: str
    predict_batch: Compute
    num_classes: int
    outputs: tuple[str, ...] = CLASSIFIER_OUTPUTS

    @property
    def is_reader(self) -> bool:
        return self.outputs == READER_OUTPUTS


def checked_outputs(
    where: object, inputs: Signature, outputs: Signature
) -> tuple[tuple[str, ...], int]:
    """The outputs' names, and the C, of a model whose signature is a classifier's or a reader's.

    Args:
        where: What the message names.
        inputs: Name to dtype and shape; `None` for a size that is open.
        outputs: The same.

    Raises:
        DigitNetError: It is neither's.
    """
    num_classes = (outputs.get("probabilities", ("", ()))[1] or (None,))[-1]
    kinds = {
        CLASSIFIER_OUTPUTS: (_IMAGES, _classifier_outputs(num_classes)),
        READER_OUTPUTS: (_PAGES, _reader_outputs(num_classes)),
    }
    names = next(
        (k for k, v in kinds.items() if ({"images": v[0]}, v[1]) == (inputs, outputs)), None
    )
    if names is None or not num_classes:
        raise DigitNetError(
            f"{where}: expected a model from images (N, 28, 28, 1) uint8 to probabilities (N, C) "
            "float32 and label (N,) int32, or a reader from images (N, H, W, 1) to presence, boxes "
            f"and probabilities; received: from {_described(inputs)} to {_described(outputs)}."
        )
    if num_classes > MOST_CLASSES:
        raise DigitNetError(
            f"{where}: expected at most {MOST_CLASSES:,} classes; received: {num_classes:,}."
        )
    return names, num_classes


def _classifier_outputs(num_classes: int | None) -> Signature:
    return {"label": ("int32", (None,)), "probabilities": ("float32", (None, num_classes))}


def _reader_outputs(num_classes: int | None) -> Signature:
    cells: Shape = (None, None, None)
    return {
        "presence": ("float32", cells),
        "boxes": ("float32", (*cells, 4)),
        "probabilities": ("float32", (*cells, num_classes)),
    }


def _described(signature: Signature) -> str:
    def size(number: int | None) -> str:
        return "N" if number is None else str(number)

    parts = (
        f"{name} ({', '.join(map(size, shape))}) {dtype}"
        for name, (dtype, shape) in sorted(signature.items())
    )
    return " ".join((", ".join(parts) or "nothing").split())[:300]


def _require_finite(where: object, weights: Iterable[np.ndarray]) -> None:
    """Raises DigitNetError for NaN and infinity among the weights.

    The answers alone do not tell: the ReLU of TensorFlow and OpenVINO makes 0
    of NaN, and any one 0 of -infinity. LiteRT's converter writes the largest
    number there is for infinity.
    """
    for weight in weights:
        if weight.dtype.kind == "f" and not (np.abs(weight) < np.finfo(weight.dtype).max).all():
            raise DigitNetError(
                f"{where}: expected finite weights; received: NaN or infinity among them. "
                "Train or fetch it again."
            )


@contextlib.contextmanager
def _loading(path: Path, what: str) -> Iterator[None]:
    """Makes whatever a damaged file raises one message: each program has exceptions of its own."""
    try:
        yield
    except DigitNetError:
        raise
    except Exception as error:
        raise DigitNetError(f"{path}: expected {what}; received: {first_line(error)}") from error


_process_of_backends: int | None = None


def _require_process(where: object) -> None:
    """Raises DigitNetError in a fork of the process that opened a model in Keras or TensorFlow.

    What TensorFlow, JAX and torch compute in such a fork never ends.
    """
    global _process_of_backends
    _process_of_backends = _process_of_backends or os.getpid()
    if _process_of_backends != os.getpid():
        raise DigitNetError(
            f"{where}: expected a process that was not forked from one that has opened a model in "
            "Keras or TensorFlow, which would wait forever; received: such a one. Start workers "
            "with multiprocessing's spawn, or use an .onnx, .tflite or OpenVINO .xml file."
        )


def _in_turns(first: Compute, another: Callable[[], Compute] | None = None) -> Compute:
    """What threads may call at once, of workers that take one call at a time.

    Args:
        first: A worker.
        another: Makes up to `MOST_WORKERS` of them, where more threads come
            than there are workers; else they wait for the first.
    """
    idle = deque([first])
    free = threading.Semaphore(min(_usable_cpus(), MOST_WORKERS) if another else 1)

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with free:
            try:
                worker = idle.pop()
            except IndexError:
                assert another is not None
                worker = another()
            try:
                return worker(images)
            finally:
                idle.append(worker)

    return predict_batch


# Keras


def open_keras(path: Path) -> Runtime:
    """Opens a `.keras` file on the backend that Keras runs on, or else should run on."""
    _require_process(path)
    inference = load_inference_model(path)
    if isinstance(inference.output, dict):
        num_classes = inference.output["probabilities"].shape[-1]
        pages = _in_keras(path, _page_reader(inference))
        return Runtime(str(path), pages, num_classes, READER_OUTPUTS)

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities = np.asarray(inference.predict_on_batch(images))
        return probabilities, probabilities.argmax(axis=1)

    return Runtime(str(path), _in_keras(path, compute), inference.output_shape[1])


def _in_keras(path: Path, compute: Compute) -> Compute:
    """A Keras model's trainer keeps state between calls: one thread at a time, in this process."""
    in_turns = _in_turns(compute)

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        _require_process(path)
        return in_turns(images)

    return predict_batch


def _page_reader(inference: "keras.Model") -> Compute:
    """Computes pages of any size; on JAX in some fixed ones, since it compiles each shape anew.

    There what is more goes on below and at the right as the page's margin ends.
    """
    import keras

    in_few_shapes = keras.backend.backend() == "jax"

    def predict_batch(pages: np.ndarray) -> tuple[np.ndarray, ...]:
        height, width = pages.shape[1:3]
        if in_few_shapes:
            more = [(0, _fixed_side(side) - side) for side in (height, width)]
            pages = np.pad(pages, ((0, 0), *more, (0, 0)), mode="edge")
        found = inference.predict_on_batch(pages)
        cells = np.s_[:, : -(-height // 4), : -(-width // 4)]
        return tuple(np.asarray(found[name])[cells] for name in READER_OUTPUTS)

    return predict_batch


def _fixed_side(side: int) -> int:
    """The next of 64, 96, 128, 192, 256, 384 and so on."""
    power = 1 << max(side - 1, 63).bit_length()
    return next(fixed for fixed in (power * 3 // 4, power) if fixed >= side)


def load_inference_model(path: Path) -> "keras.Model":
    """The network in a `.keras` file as it is deployed, compiled, in float32.

    A classifier gives probabilities, a reader what `build_detection_model` says.

    Nothing in the file is executed: no Lambda layers, no classes but Keras's
    and ours. No archive that unpacks to more than `MOST_UNPACKED` bytes is
    unpacked, and no network whose weights take more is built.

    Raises:
        DigitNetError: It is no such file.
    """
    model = load_keras_model(path)
    from keras_digitnet.detector import build_detection_model
    from keras_digitnet.model import build_inference_model, jit_compile

    for layer in model.layers:
        if layer.dtype_policy.name.startswith("mixed_"):  # whose weights are float32
            layer.dtype_policy = "float32"
    with _loading(path, "a model that kd.build_model has built"):
        build = build_detection_model if _is_detector(model) else build_inference_model
        inference = build(model)
    inference.compile(jit_compile=jit_compile())
    return inference


def load_keras_model(path: Path) -> "keras.Model":
    """The network in a `.keras` file as it is stored: to logits, or to cells."""
    if "keras" not in sys.modules:
        select_backend()
    import keras

    import keras_digitnet.layers  # noqa: F401  (names our layers for Keras)

    with _loading(path, "a .keras model that Keras can load"):
        _inspect_archive(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    inputs = [(tensor.dtype, tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    outputs = [(tensor.dtype, tensor.shape) for tensor in getattr(model, "outputs", None) or ()]
    single = [("float32", (None, *shape[1:])) for _, shape in outputs if len(shape) == 2]
    cells = [("float32", (None, None, None, max(shape[-1] or 0, 7))) for _, shape in outputs]
    if len(outputs) != 1 or (inputs, outputs) not in (([_IMAGES], single), ([_PAGES], cells)):
        raise DigitNetError(
            f"{path}: expected a model from (N, 28, 28, 1) uint8 images to (N, C) float32 logits, "
            "or a reader from (N, H, W, 1) uint8 images to (N, H/4, W/4, 5 + C) float32 cells; "
            f"received: one from {inputs} to {outputs}."
        )
    _require_finite(path, map(keras.ops.convert_to_numpy, model.weights))
    return model


def _is_detector(model: "keras.Model") -> bool:
    return len(model.outputs[0].shape) == 4


def _inspect_archive(path: Path) -> None:
    """Raises ValueError for what must not even be unpacked or built."""
    import h5py

    unpacked = "an archive that unpacks to"
    with zipfile.ZipFile(path) as archive:
        _refuse_size(unpacked, sum(member.file_size for member in archive.infolist()))
        # `[[],[],` ...: what is read takes up to 20 times the memory of the text.
        _refuse_size("a config that may fill", 20 * archive.getinfo("config.json").file_size)
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    sizes: list[int] = []  # compressed arrays can grow once more
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
    _refuse_size(unpacked, sum(sizes))
    _refuse_foreign_code(config)
    with ThreadPoolExecutor(1) as thread:
        _refuse_size("a network with weights of", thread.submit(_size_of_weights, config).result())


def _size_of_weights(config: Any) -> int:
    """What the weights of the network would take; none is made.

    Keras notes for the thread what it has yet to make: call it in one that ends.
    """
    import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config | {"compile_config": None})
    return sum(4 * math.prod(weight.shape) for weight in getattr(model, "weights", ()))


def _refuse_size(what: str, size: int) -> None:
    if size > MOST_UNPACKED:
        raise ValueError(f"{what} {size:,} bytes; at most {MOST_UNPACKED:,} are allowed")


def _refuse_foreign_code(config: Any) -> None:
    """Keras refuses it too, but does not always say what it was."""
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


# What a model is exported to


def _usable_cpus() -> int:
    """The processors that this process may use; more threads would wait for each other."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_saved_model(path: Path) -> Runtime:
    """Opens the folder of one version of a SavedModel in TensorFlow."""
    _require_process(path)
    require_tensorflow(str(path))
    with suppress_native_stderr():
        devices("tensorflow")
    import tensorflow

    def described(specs: Mapping[str, Any]) -> Signature:
        return {
            name: (spec.dtype.name, tuple(spec.shape) if spec.shape.rank else ())
            for name, spec in specs.items()
        }

    with _loading(path, "a SavedModel that TensorFlow can load"):
        loaded = tensorflow.saved_model.load(str(path))  # whose variables live as long as it
        signatures = loaded.signatures
        if "serving_default" not in signatures:
            raise DigitNetError(
                f"{path}: expected a SavedModel with the signature serving_default; "
                f"received: {', '.join(sorted(signatures)) or 'none'}."
            )
        served = signatures["serving_default"]
        inputs = described(served.structured_input_signature[1])
        outputs, num_classes = checked_outputs(path, inputs, described(served.structured_outputs))
        _require_finite(path, (variable.numpy() for variable in served.variables))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        _require_process(path)
        answers = served(images=tensorflow.constant(images))
        return tuple(answers[name].numpy() for name in outputs)

    return Runtime(str(path), predict_batch, num_classes, outputs)


def open_onnx(path: Path) -> Runtime:
    """Opens an `.onnx` file in ONNX Runtime, on the CPU."""
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an exception
    options.intra_op_num_threads = _usable_cpus()
    dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(int32)": "int32"}

    def described(nodes: Any) -> Signature:
        return {
            node.name: (
                dtypes.get(node.type, node.type),
                tuple(size if isinstance(size, int) else None for size in node.shape),
            )
            for node in nodes
        }

    with _loading(path, "an .onnx model that ONNX Runtime can load"):
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        outputs, num_classes = checked_outputs(
            path, described(session.get_inputs()), described(session.get_outputs())
        )
        _require_finite(path, _onnx_weights(path.read_bytes()))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(session.run(list(outputs), {"images": images}))

    return Runtime(str(path), predict_batch, num_classes, outputs)


def _onnx_weights(model: bytes) -> Iterator[np.ndarray]:
    """The float32 initializers; ONNX Runtime shows none, and `onnx` may not be installed."""
    graph, initializer, dtype, float32, float_data, raw_data = 7, 5, 2, 1, 4, 9
    for field, content in _protobuf_fields(model):
        for part, tensor in _protobuf_fields(content) if field == graph else ():
            values = dict(_protobuf_fields(tensor)) if part == initializer else {}
            if values.get(dtype) == float32:
                yield np.frombuffer(values.get(raw_data) or values.get(float_data, b""), "<f4")


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The number and the content of each field, whatever kind of message it is."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    return (
        (field.field_number, field.data) for field in UnknownFieldSet(Empty.FromString(message))
    )


def open_litert(path: Path) -> Runtime:
    """Opens a `.tflite` file in LiteRT."""
    litert = import_extra("ai_edge_litert.interpreter", "litert")

    def described(details: Mapping[str, Any]) -> Signature:
        return {
            name: (
                np.dtype(detail["dtype"]).name,
                tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
            )
            for name, detail in details.items()
        }

    with _loading(path, "a .tflite model with serving_default"), suppress_native_stderr():
        content = path.read_bytes()  # another worker is of the same, whatever the file is by then

        def opened() -> Any:
            return litert.Interpreter(model_content=content, num_threads=_usable_cpus())

        interpreter = opened()
        _require_finite(path, _litert_weights(interpreter))
        interpreter.allocate_tensors()  # reports what it computes with, once
        run = interpreter.get_signature_runner("serving_default")
        outputs, num_classes = checked_outputs(
            path, described(run.get_input_details()), described(run.get_output_details())
        )

    def worker(run: Any) -> Compute:
        def compute(images: np.ndarray) -> tuple[np.ndarray, ...]:
            answers = run(images=images)
            return tuple(answers[name] for name in outputs)

        return compute

    def another() -> Compute:
        return worker(opened().get_signature_runner("serving_default"))

    return Runtime(str(path), _in_turns(worker(run), another), num_classes, outputs)


def _litert_weights(interpreter: Any) -> Iterator[np.ndarray]:
    """What has a value before the rest gets its memory, and the scales of what has eight bits."""
    for detail in interpreter.get_tensor_details():
        yield detail["quantization_parameters"]["scales"]
        with contextlib.suppress(ValueError):
            yield interpreter.get_tensor(detail["index"])


def open_openvino(path: Path) -> Runtime:
    """Opens an OpenVINO `.xml` file with its `.bin`, computing in float32.

    Left alone, OpenVINO computes in bfloat16 where the processor can, and the
    probabilities move by almost a hundredth.
    """
    openvino = import_extra("openvino", "openvino")
    if not (weights := path.with_suffix(".bin")).is_file():
        raise DigitNetError(
            f"{path}: expected its weights beside it, in {weights.name}; received: none."
        )

    def open_size(size: Any) -> int | None:
        return None if size.is_dynamic else size.get_length()

    def described(ports: Any) -> Signature:
        return {
            min(port.names, default=""): (
                port.element_type.to_dtype().name,
                tuple(map(open_size, port.partial_shape)),
            )
            for port in ports
        }

    with _loading(path, "an OpenVINO model that it can load"):
        core = openvino.Core()
        network = core.read_model(str(path))
        operations = network.get_ops()
        _require_finite(
            path, (node.data for node in operations if node.get_type_name() == "Constant")
        )
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs, num_classes = checked_outputs(
            path, described(compiled.inputs), described(compiled.outputs)
        )

    def worker() -> Compute:
        request = compiled.create_infer_request()

        def compute(images: np.ndarray) -> tuple[np.ndarray, ...]:
            answers = request.infer({"images": images})
            return tuple(answers[name] for name in outputs)

        return compute

    return Runtime(str(path), _in_turns(worker(), worker), num_classes, outputs)
