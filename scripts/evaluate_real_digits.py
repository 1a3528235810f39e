"""Scores a model on real handwriting that is not MNIST's.

    python scripts/evaluate_real_digits.py FOLDER --data mnist --mistakes mistakes.png --write

Each set in the folder is a row: a `.npz` with `images` (uint8, N pictures) and
`labels` (uint8), or a folder of pictures with `labels.csv`, a `file` and a `label`
each. Labels of one digit are read with `normalize_digit`, longer ones with `read`,
and the whole string must be right. With `--data`, rows of its test digits: raw,
normalized, and written into lines on paper.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import readme
import typer
from PIL import Image, ImageDraw
from written_lines import write_line

from keras_digitnet.artifacts import written_whole
from keras_digitnet.cli import print_table
from keras_digitnet.errors import DigitNetError
from keras_digitnet.inference import Classifier, load
from keras_digitnet.normalization import normalize_digit
from keras_digitnet.reader import read

# On a sheet: a picture and what was made of it, each so many pixels high.
TILE = 96


@dataclass(frozen=True)
class Answer:
    """What was read of one picture, which says `label`; `seen` is what the model was shown."""

    picture: Any
    seen: np.ndarray
    label: str
    text: str


def main(
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="Of sets.")] = None,
    model: Annotated[str, typer.Option(help="As for `keras-digitnet predict`.")] = "base",
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`; else none.")] = "",
    lines: Annotated[int, typer.Option(help="How many lines to write of its digits.")] = 1000,
    mistakes: Annotated[Path | None, typer.Option(help="A picture of what was wrong.")] = None,
    write: Annotated[bool, typer.Option(help="Put the table into the README.")] = False,
) -> None:
    """The share of pictures of each set that are read right."""
    if write and (model, data, lines, folder is None) != ("base", "mnist", 1000, False):
        raise typer.BadParameter("--write: expected a folder, base, mnist and 1000 lines")
    classifier = load(model)
    sets = dict(find_sets(folder)) if folder else {}
    answers = {name: read_all(classifier, *each) for name, each in sets.items()}
    if data:
        answers |= answers_on(data, classifier, lines)
    rows = [
        (name, f"{len(each):,}", f"{sum(a.text == a.label for a in each) / len(each):.2%}")
        for name, each in answers.items()
    ]
    columns = ("set", "pictures", "right")
    print_table(f"{model} on {folder or data}", columns, rows)
    if mistakes:
        wrong = {name: [a for a in each if a.text != a.label] for name, each in answers.items()}
        with written_whole(mistakes) as temporary:
            sheet(wrong).save(temporary, "PNG")
    if write:
        readme.write_block("real pictures", readme.table(columns, rows))


def find_sets(folder: Path) -> Iterator[tuple[str, tuple[list[Any], list[str]]]]:
    """The name, pictures and labels of every set in a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield path.stem, (list(file["images"]), [str(label) for label in file["labels"]])
        elif (path / "labels.csv").is_file():
            with (path / "labels.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            yield path.name, ([path / row["file"] for row in rows], [row["label"] for row in rows])


def read_all(
    classifier: Classifier, pictures: Sequence[Any], labels: Sequence[str]
) -> list[Answer]:
    if max(map(len, labels)) > 1:
        return [lines_answer(classifier, *each) for each in zip(pictures, labels, strict=True)]
    images = np.stack([normalized_or_black(picture) for picture in pictures])
    return digits_answers(classifier, pictures, images, labels)


def digits_answers(
    classifier: Classifier, pictures: Sequence[Any], images: np.ndarray, labels: Sequence[str]
) -> list[Answer]:
    found = classifier.predict(images).labels
    return [
        Answer(picture, image, label, classifier.classes[index] if image.any() else "")
        for picture, image, label, index in zip(pictures, images, labels, found, strict=True)
    ]


def normalized_or_black(picture: Any) -> np.ndarray:
    try:
        return normalize_digit(picture)
    except DigitNetError:
        return np.zeros((28, 28), np.uint8)


def lines_answer(classifier: Classifier, picture: Any, label: str) -> Answer:
    try:
        reading = read(picture, classifier)
    except DigitNetError:
        return Answer(picture, np.zeros((28, 28), np.uint8), label, "")
    seen = np.concatenate([digit.image for digit in reading.digits], axis=1)
    return Answer(picture, seen, label, reading.text)


def answers_on(data: str, classifier: Classifier, count: int) -> dict[str, list[Answer]]:
    """A data set's test digits: as they are, normalized, and in lines."""
    from keras_digitnet.data import load_dataset

    dataset = load_dataset(data)
    test = dataset.test
    images, labels = list(test.images[..., 0]), [str(label) for label in test.labels]
    random = np.random.default_rng(0)
    written = [write_line(test, random) for _ in range(count)]
    return {
        f"{dataset.name}, raw": digits_answers(classifier, images, test.images, labels),
        f"{dataset.name}, normalized": read_all(classifier, images, labels),
        f"{dataset.name}, in lines": [lines_answer(classifier, *each) for each in written],
    }


def sheet(wrong: dict[str, list[Answer]], most: int = 48) -> Image.Image:
    """The first wrong answers of each set: the picture, what the model saw, and two texts."""
    height = TILE + 14
    drawn = Image.new("L", (1600, 200 * height), 40)
    pen = ImageDraw.Draw(drawn)
    y = 0
    for name, answers in wrong.items():
        pen.text((4, y + 2), f"{name}: {len(answers)} wrong", 255)
        x, y = 0, y + 16
        for answer in answers[:most]:
            tiles = [tile(answer.picture), tile(answer.seen)]
            width = sum(each.width + 2 for each in tiles) + 6
            if x and x + width > drawn.width:
                x, y = 0, y + height
            pen.text((x + 2, y + TILE), f"{answer.label} read {answer.text or 'nothing'}", 255)
            for each in tiles:
                drawn.paste(each, (x, y))
                x += each.width + 2
            x += 6
        y += height
    return drawn.crop((0, 0, drawn.width, min(y, drawn.height)))


def tile(picture: Any) -> Image.Image:
    from keras_digitnet.images import read_grey

    grey = Image.fromarray(read_grey(picture))
    width = min(700, max(1, round(grey.width * TILE / grey.height)))
    return grey.resize((width, TILE))


if __name__ == "__main__":
    typer.run(main)
