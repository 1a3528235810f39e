"""Options and arguments shared by several commands."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from keras_digitnet.config import PRESETS
from keras_digitnet.environment import BACKENDS

MODEL_HELP = (
    f"{'|'.join(PRESETS)}, the folder of a run or of exports, a .keras, .onnx, .tflite or "
    "OpenVINO .xml file, the folder of a SavedModel, or the address of a served model "
    "(http://localhost:8501/v1/models/digitnet, or /v2/models/digitnet on Triton and the like)."
)
_DATA = (
    "auto, mnist, digits, fashion_mnist, a .npz file in Keras's layout, a .csv or .parquet file, "
    "or a folder of such files, of IDX files, or with one subfolder of images per class. auto "
    "uses KERAS_DIGITNET_DATA if set, else MNIST, else scikit-learn's bundled digits."
)


def one_of(names: Sequence[str], *flags: str, **settings: Any) -> Any:
    """An option whose value is one of several names, with shell completion.

    Args:
        names: The valid values.
        flags: The option's flags.
        settings: Further arguments of `typer.Option`.
    """
    return typer.Option(
        *flags, metavar="|".join(names), autocompletion=lambda: list(names), **settings
    )


DataOption = Annotated[str, typer.Option(metavar="NAME|PATH", help=_DATA)]
TestDataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME|PATH", help=_DATA, show_default="the run's; auto for a preset"
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help=f"The model that classifies the digits: {MODEL_HELP}",
        show_default="the reader and base together",
    ),
]
ReaderOption = Annotated[
    str | None,
    typer.Option(
        "--reader",
        metavar="MODEL",
        help="The reader that finds the digits for a classifier, named like a --model.",
        show_default="reader, for models of the ten digits",
    ),
]
PicturesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...", help="Pictures and folders of pictures; - is standard input."
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Number of pictures to read in parallel.",
        show_default="the number of usable processors",
    ),
]
BackendOption = Annotated[
    str | None,
    one_of(
        BACKENDS,
        "--backend",
        help="The Keras backend. The default is KERAS_BACKEND, else the backend in keras.json, "
        "else TensorFlow.",
        show_default=False,
    ),
]
ModelBackendOption = Annotated[
    str | None,
    one_of(
        BACKENDS,
        "--backend",
        help="The Keras backend, for presets and .keras files. The default is KERAS_BACKEND; "
        "without it, presets run in ONNX Runtime, and .keras files on the backend in keras.json, "
        "else TensorFlow.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; messages go to stderr.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only warnings and the result.")
]


def folder_option(help_text: str, **settings: Any) -> Any:
    """An option whose value is a folder; `settings` are further arguments of `typer.Option`."""
    return typer.Option(metavar="DIR", help=help_text, **settings)
