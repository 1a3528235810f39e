"""Scores models on digits with distortions that differ from the training augmentation.

    python scripts/evaluate_robustness.py --data mnist --write

Prints a table with one row per distortion; the last rows are their mean and the
clean digits. For tuning use `--split validation`, the digits that seed 0 holds out:
the test digits are never used for model selection.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.figure
import numpy as np
import readme
import typer
from distortions import DISTORTIONS, distort

from keras_digitnet.cli.output import print_table
from keras_digitnet.config import CLASSIFIERS

PICTURE_PATH = Path(__file__).parent / "results" / "distortions.png"


def main(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default: the presets.")
    ] = None,
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`.")] = "mnist",
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    write: Annotated[
        bool, typer.Option(help="Write table and picture into saved_models/README.md.")
    ] = False,
) -> None:
    """Prints the accuracy of each model under each distortion."""
    if write and (models, data, split) != (None, "mnist", "test"):
        raise typer.BadParameter("--write: expected the presets and mnist's test digits")
    from keras_digitnet.data import load_dataset
    from keras_digitnet.reading.inference import load_classifier

    dataset = load_dataset(data)
    digits = {"test": dataset.test, "validation": dataset.validation}[split]
    classifiers = {name: load_classifier(name) for name in models or CLASSIFIERS}

    def accuracies(images: np.ndarray) -> list[float]:
        return [
            float((classifier.predict(images).labels == digits.labels).mean())
            for classifier in classifiers.values()
        ]

    scores = {each.__name__: accuracies(distort(digits.images, each)) for each in DISTORTIONS}
    mean = np.mean(list(scores.values()), axis=0)
    rows = [
        (name.replace("_", " "), *(f"{accuracy:.1%}" for accuracy in row))
        for name, row in scores.items()
    ]
    rows.append(("mean of these", *(f"{accuracy:.1%}" for accuracy in mean)))
    rows.append(("none", *(f"{accuracy:.2%}" for accuracy in accuracies(digits.images))))
    columns = ("distortion", *classifiers)
    print_table(f"{dataset.name}, {len(digits):,} {split} digits", columns, rows)
    if write:
        readme.write_block("robustness", readme.table(columns, rows))
        _draw(digits.images[:12])


def _draw(images: np.ndarray) -> None:
    """Draws the same digits under every distortion, one row each."""
    figure = matplotlib.figure.Figure(figsize=(9, 12))
    kinds = [("none", images), *((each.__name__, distort(images, each)) for each in DISTORTIONS)]
    for axes, (name, shown) in zip(figure.subplots(len(kinds)), kinds, strict=True):
        axes.imshow(np.concatenate(list(shown[..., 0]), axis=1), cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(PICTURE_PATH, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    typer.run(main)
