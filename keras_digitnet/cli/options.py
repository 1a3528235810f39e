"""The options and arguments that several commands share."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from keras_digitnet.config import PRESETS
from keras_digitnet.environment import BACKENDS

WHERE = (
    f"{'|'.join(PRESETS)}, the folder of a run or of exports, a .keras, .onnx, .tflite or "
    "OpenVINO .xml file, the folder of a SavedModel, or the address of a served model "
    "(http://localhost:8501/v1/models/digitnet, or /v2/models/digitnet of Triton and its like)."
)
_DATA = (
    "auto, mnist, digits, fashion_mnist, a .npz file in Keras's layout, a .csv or .parquet file, "
    "or a folder of such files, of IDX files, or with a folder of images for each class. auto "
    "takes what KERAS_DIGITNET_DATA names, else MNIST, else scikit-learn's bundled digits."
)


def one_of(names: Sequence[str], *flags: str, **settings: Any) -> Any:
    """An option whose value is one of some names, with shell completion.

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
        "--data", metavar="NAME|PATH", help=_DATA, show_default="the run's own; a preset's is auto"
    ),
]
NamingOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="WHERE",
        help=f"The model that classifies the digits: {WHERE}",
        show_default="the reader and base together",
    ),
]
FindingOption = Annotated[
    str | None,
    typer.Option(
        "--reader",
        metavar="WHERE",
        help="The reader that finds the digits for a classifier, given like a model.",
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
        help="Pictures that are read at the same time.",
        show_default="the processors that it may use",
    ),
]
BackendOption = Annotated[
    str | None,
    one_of(
        BACKENDS,
        "--backend",
        help="The Keras backend. The default is KERAS_BACKEND, else that of keras.json, else "
        "TensorFlow.",
        show_default=False,
    ),
]
ModelBackendOption = Annotated[
    str | None,
    one_of(
        BACKENDS,
        "--backend",
        help="The Keras backend, for presets and .keras files. The default is KERAS_BACKEND; "
        "without it, presets run in ONNX Runtime, and .keras files on the backend of keras.json "
        "or else TensorFlow.",
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
