"""The formats of trained models, one module each.

The rest of the package uses only this table. A format's module has `open_model(path, threads)`,
which returns a `Runtime`, and, if models are exported to it, `write_model(reference, path)`. To add
a format, write such a module and add a row.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keras_digitnet.artifacts import SERVABLE_NAME
from keras_digitnet.errors import DigitNetError, did_you_mean

if TYPE_CHECKING:
    from keras_digitnet.formats.reference import Reference
    from keras_digitnet.formats.runtime import Runtime


@dataclass(frozen=True)
class Format:
    """A format of trained models.

    Attributes:
        name: Its name for `export --format`.
        module: The module of this folder that writes and opens it.
        file: The name of its file or folder in a folder of exports.
        needs: The modules beside TensorFlow that are needed to write and open it, each
            with the extra that installs it.
        any_size: Whether images may have any size, as a reader's pages do.
        quantized: Whether its weights are quantized, so its probabilities differ from Keras's.
    """

    name: str
    module: str
    file: str
    needs: Mapping[str, str] = field(default_factory=dict)
    any_size: bool = True
    quantized: bool = False

    @property
    def suffix(self) -> str:
        """The suffix of its files; empty for a folder."""
        return Path(self.file).suffix

    def open(self, path: Path, threads: int | None = None) -> "Runtime":
        """Opens a file, or the folder of a SavedModel's version.

        Args:
            path: Where it is.
            threads: Threads per call in ONNX Runtime and LiteRT, by default one
                per processor; the other runtimes share theirs among all models.

        Raises:
            DigitNetError: It is neither a classifier nor a reader, or its runtime is not
                installed.
        """
        module = importlib.import_module(f"keras_digitnet.formats.{self.module}")
        runtime: Runtime = module.open_model(path, threads)
        return runtime

    def write(self, reference: "Reference", path: Path) -> None:
        """Writes the reference's network to the path; may raise any exception of its converter."""
        module = importlib.import_module(f"keras_digitnet.formats.{self.module}")
        module.write_model(reference, path)


KERAS = Format("keras", "keras_file", "model.keras")
SAVED_MODEL = Format("saved_model", "saved_model", SERVABLE_NAME)
_LITERT = {"ai_edge_litert.interpreter": "litert"}
# Of a folder of exports the first of these is opened: runtimes that install and start fast come
# first, the format that is not exact last.
EXPORTED = (
    Format("onnx", "onnx", "model.onnx", {"onnx": "onnx", "tf2onnx": "onnx"}),
    SAVED_MODEL,
    Format("litert", "litert", "model.tflite", _LITERT, any_size=False),
    Format("openvino", "openvino", "model.xml", {"openvino": "openvino"}),
    Format(
        "litert_int8",
        "litert_int8",
        "model_int8.tflite",
        {"ai_edge_quantizer": "litert", **_LITERT},
        any_size=False,
        quantized=True,
    ),
)
EXPORT_FORMATS = tuple(form.name for form in EXPORTED)
# A file is opened by its suffix; a SavedModel is a folder.
BY_SUFFIX = {form.suffix: form for form in (KERAS, *EXPORTED) if form.suffix}


def chosen_formats(names: Sequence[str], of_reader: bool = False) -> list[Format]:
    """The formats of these names; `all` alone means all exact ones.

    Args:
        names: Names of formats, or `all`.
        of_reader: Whether a reader is exported, whose pages have any size.

    Raises:
        DigitNetError: There is no such format, or a reader cannot be exported to it.
    """
    if list(names) == ["all"]:
        exact = [form for form in EXPORTED if not form.quantized]
        return [form for form in exact if form.any_size or not of_reader]
    by_name = {form.name: form for form in EXPORTED}
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise DigitNetError(
            f"format: expected one of {', '.join(EXPORT_FORMATS)}, or all alone; "
            f"received: {', '.join(unknown) or 'none'}."
            + "".join(did_you_mean(name, EXPORT_FORMATS) for name in unknown[:1])
        )
    chosen = [by_name[name] for name in names]
    fixed = [form.name for form in chosen if not form.any_size]
    if of_reader and fixed:
        of_any_size = [form.name for form in EXPORTED if form.any_size]
        raise DigitNetError(
            f"format: expected {', '.join(of_any_size)} for a reader, whose pages have any size; "
            f"received: {', '.join(fixed)}, whose sizes are fixed."
        )
    return chosen
