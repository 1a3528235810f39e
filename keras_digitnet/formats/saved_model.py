"""SavedModels, for TensorFlow Serving and as the source of LiteRT and OpenVINO files."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_digitnet.artifacts import SERVABLE_NAME
from keras_digitnet.config import IMAGE_SHAPE
from keras_digitnet.environment import (
    devices,
    import_extra,
    require_tensorflow,
    starting,
    suppress_native_stderr,
)
from keras_digitnet.errors import DigitNetError
from keras_digitnet.formats.runtime import (
    Runtime,
    Signature,
    checked_outputs,
    loading,
    require_finite,
    require_process,
)

if TYPE_CHECKING:
    from keras_digitnet.formats.reference import Reference

logger = logging.getLogger(__name__)


def open_model(path: Path, threads: int | None = None) -> Runtime:
    """Opens the folder of one version of a SavedModel in TensorFlow."""
    require_process(path)
    require_tensorflow(str(path))
    with suppress_native_stderr(), starting("tensorflow"):
        devices("tensorflow")
    import tensorflow

    def described(specs: Mapping[str, Any]) -> Signature:
        return {
            name: (spec.dtype.name, tuple(spec.shape) if spec.shape.rank else ())
            for name, spec in specs.items()
        }

    with loading(path, "a SavedModel that TensorFlow can load"):
        loaded = tensorflow.saved_model.load(str(path))  # must stay alive: it owns the variables
        signatures = loaded.signatures
        if "serving_default" not in signatures:
            raise DigitNetError(
                f"{path}: expected a SavedModel with the signature serving_default; "
                f"received: {', '.join(sorted(signatures)) or 'none'}."
            )
        served = signatures["serving_default"]
        inputs = described(served.structured_input_signature[1])
        outputs, num_classes = checked_outputs(path, inputs, described(served.structured_outputs))
        require_finite(path, (variable.numpy() for variable in served.variables))

    def predict_batch(images: np.ndarray) -> tuple[np.ndarray, ...]:
        require_process(path)
        answers = served(images=tensorflow.constant(images))
        return tuple(answers[name].numpy() for name in outputs)

    return Runtime(str(path), predict_batch, num_classes, outputs)


def write_model(reference: "Reference", path: Path) -> None:
    """Writes the folder of a version, with warm-up requests."""
    save(reference, path, image_bytes=reference.takes_bytes)
    (path / "assets.extra").mkdir()
    _write_warmup_requests(reference, path / "assets.extra")


def save(reference: "Reference", folder: Path, image_bytes: bool) -> None:
    """Writes a SavedModel with the signature `serving_default`, and optionally `image_bytes`.

    Raises:
        OSError: It cannot be written.
    """
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    serve = serving_function(reference)
    archive.add_endpoint("serving_default", serve)
    if image_bytes:
        archive.add_endpoint("image_bytes", _bytes_function(serve))
    try:
        archive.write_out(str(folder), verbose=False)
    except tf.errors.OpError as error:  # how TensorFlow reports a full disk
        raise OSError(error.message.split("; ")[-1]) from error


@contextlib.contextmanager
def temporary_saved_model(reference: "Reference") -> Iterator[str]:
    """Yields a temporary folder with the network's SavedModel, for converters."""
    with tempfile.TemporaryDirectory() as folder:
        save(reference, Path(folder), image_bytes=False)
        yield folder


def serving_function(reference: "Reference") -> Any:
    """A TensorFlow function from `images` to the named outputs of every exported format."""
    import tensorflow as tf

    images = tf.TensorSpec([None, *reference.input_shape], tf.uint8, "images")

    @tf.function(input_signature=[images])
    def serve(images: Any) -> dict[str, Any]:
        return reference.named(images)

    return serve


def _bytes_function(serve: Any) -> Any:
    """The same function from `image_bytes`, the bytes of one PNG or JPEG per row."""
    import tensorflow as tf

    pixels = tf.TensorSpec(IMAGE_SHAPE, tf.uint8)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve_bytes(image_bytes: Any) -> dict[str, Any]:
        return serve(tf.map_fn(_decoded, image_bytes, fn_output_signature=pixels))

    return serve_bytes


def _decoded(content: Any) -> Any:
    """Decodes and resizes one PNG or JPEG, like `decoding.read_image` but in the graph."""
    import tensorflow as tf

    image = tf.io.decode_image(content, channels=1, expand_animations=False)
    image.set_shape([None, None, 1])
    resized = tf.image.resize(image, IMAGE_SHAPE[:2], "lanczos3", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def _write_warmup_requests(reference: "Reference", folder: Path) -> None:
    """Writes requests that a server runs before it accepts any, so that no client waits.

    One of each signature, and a batch, in the format of TensorFlow Serving's
    "SavedModel Warmup".
    """
    import tensorflow as tf

    try:
        import_extra("tensorflow_serving", "serving")
    except DigitNetError as error:
        logger.info("The SavedModel has no warm-up requests. %s", error)
        return
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    first = reference.batches[0]
    requests = [("serving_default", "images", first[:1]), ("serving_default", "images", first[:32])]
    if reference.takes_bytes:
        picture = tf.io.encode_png(first[0]).numpy()
        requests.append(("image_bytes", "image_bytes", np.array([picture], object)))
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, name, value in requests:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name=SERVABLE_NAME, signature_name=signature),
                inputs={name: tf.make_tensor_proto(value)},
            )
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
