"""Scores `predict` and `read` on real handwriting other than MNIST's.

    python scripts/evaluate_real_digits.py FOLDER --data mnist --mistakes mistakes.png --write

Each set in the folder is a row: a `.npz` with `images` (uint8, N pictures) and
`labels` (uint8), or a folder of pictures with a `labels.csv` of `file` and `label`.
Sets of single digits are read as by `predict`, the others as by `read`; the whole
string must be correct. `NAME_halves.json` beside a set splits it by row numbers into
two rows, `tuned` and `unseen`; the pictures of `unseen` are scored but never shown.
With `--data` there are rows for its test digits: raw, as single pictures, and written
into lines on paper. The last row is for pages without a digit: the fraction on which
none is found.

    python scripts/evaluate_real_digits.py FOLDER --data mnist --peers --write

Another table compares `read` and `predict` with other OCR systems on the same
pictures. See `peers.py`.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import peers
import readme
import typer
from pages_without_digits import page_without_digits
from PIL import Image, ImageDraw

from keras_digitnet.artifacts import atomic_write
from keras_digitnet.cli.output import print_table
from keras_digitnet.data import Split, load_dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.reading.inference import load
from keras_digitnet.reading.pipeline import FoundDigit, Pipeline, as_pipeline
from keras_digitnet.reading.reader import find_digit, read
from keras_digitnet.written_lines import write_line

# Height in pixels of the pictures on a sheet of mistakes.
TILE = 96
# The part of a set that is scored but never shown.
UNSEEN = "unseen"
BLACK = np.zeros((28, 28), np.uint8)


@dataclass(frozen=True)
class Answer:
    """The result for one picture.

    Attributes:
        picture: The picture, as `read` takes it.
        seen: `(28, W)` uint8, the normalized digits side by side.
        label: The true text.
        text: The text that was read.
        confidence: From 0 to 1.
    """

    picture: Any
    seen: np.ndarray
    label: str
    text: str
    confidence: float


def main(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="The folder of sets.")
    ] = None,
    model: Annotated[str, typer.Option(help="As for `keras-digitnet read`.")] = "",
    data: Annotated[str, typer.Option(help="As for `keras-digitnet train`.")] = "",
    lines: Annotated[int, typer.Option(help="Number of lines composed of its digits.")] = 1000,
    mistakes: Annotated[Path | None, typer.Option(help="Picture file for mistakes.")] = None,
    write: Annotated[bool, typer.Option(help="Write into saved_models/README.md.")] = False,
    with_peers: Annotated[bool, typer.Option("--peers", help="Compare with other OCR.")] = False,
) -> None:
    """Prints the fraction of the pictures of each set that are read correctly."""
    if write and (model, data, lines, folder is None) != ("", "mnist", 1000, False):
        raise typer.BadParameter("--write: expected a folder, mnist, 1000 lines and no model")
    pipeline = as_pipeline(load(model) if model else None)
    if with_peers and mistakes:
        raise typer.BadParameter("--mistakes: expected no --peers, which draws nothing")
    if with_peers:
        compare_with_peers(folder, data, pipeline, lines, write)
        return
    answers: dict[str, list[Answer]] = {}
    for name, (pictures, labels) in find_sets(folder) if folder else ():
        answers[name] = read_all(pipeline, pictures, labels)
    if data:
        answers |= answers_on(data, pipeline, lines)
    rows = [
        (name, f"{len(each):,}", f"{sum(a.text == a.label for a in each) / len(each):.2%}")
        for name, each in answers.items()
    ]
    columns = ("set", "pictures", "accuracy")
    print_table(f"{model or 'reader and base'} on {folder or data}", columns, rows)
    shares = ("coverage", "accuracy")
    surest = {name: coverage(each) for name, each in answers.items() if name.startswith("cheque")}
    for name, covered in surest.items():
        print_table(f"{name}: accuracy by coverage", shares, covered)
    if mistakes:
        wrong = {name: [a for a in each if a.text != a.label] for name, each in answers.items()}
        shown = {name: each for name, each in wrong.items() if not name.endswith(UNSEEN)}
        with atomic_write(mistakes) as temporary:
            sheet(shown).save(temporary, "PNG")
    if write:
        readme.write_block("real pictures", readme.table(columns, rows))
        for name, covered in surest.items():
            if name.endswith(UNSEEN):
                readme.write_block("coverage", readme.table(shares, covered))


def compare_with_peers(
    folder: Path | None, data: str, pipeline: Pipeline, lines: int, write: bool
) -> None:
    """Compares `read`, `predict` and the peers on all sets and on lines of the data set."""
    sets: dict[str, peers.Set] = dict(find_sets(folder)) if folder else {}
    if data:
        dataset = load_dataset(data)
        count = min(lines, peers.LINES)
        sets[f"{dataset.name}, in lines"] = written_lines(dataset.test, count)
    columns, rows, versions = peers.compare(
        sets,
        read=lambda picture: line_answer(pipeline, picture, "").text,
        predict=lambda picture: digit_answer(pipeline, picture, "").text,
    )
    print_table(f"compared with {versions}", columns, rows)
    if write:
        readme.write_block("peers", f"{readme.table(columns, rows)}\n\n({versions}.)")


def find_sets(folder: Path) -> Iterator[tuple[str, tuple[list[Any], list[str]]]]:
    """Yields the name, pictures and labels of every set in a folder, sorted by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield path.stem, (list(file["images"]), [str(label) for label in file["labels"]])
        elif (path / "labels.csv").is_file():
            with (path / "labels.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            for name, indices in halves(path, len(rows)):
                chosen = [rows[index] for index in indices]
                yield name, ([path / row["file"] for row in chosen], [r["label"] for r in chosen])


def halves(path: Path, count: int) -> Iterator[tuple[str, Sequence[int]]]:
    """Yields the row numbers of a set, or of each of its parts if a file beside it splits it."""
    beside = path.with_name(f"{path.name.partition('_')[0]}_halves.json")
    if not beside.is_file():
        yield path.name, range(count)
        return
    for part, indices in json.loads(beside.read_text()).items():
        yield f"{path.name}, {part}", indices


def read_all(pipeline: Pipeline, pictures: Sequence[Any], labels: Sequence[str]) -> list[Answer]:
    """Reads the pictures of a set."""
    answer = digit_answer if peers.is_single(labels) else line_answer
    return [answer(pipeline, *each) for each in zip(pictures, labels, strict=True)]


def digit_answer(pipeline: Pipeline, picture: Any, label: str) -> Answer:
    """Reads a picture of one digit as `predict` does; the text is empty if none is found."""
    try:
        found = find_digit(picture, pipeline)
    except DigitNetError:
        return Answer(picture, BLACK, label, "", 0.0)
    probabilities = pipeline.classify([found])[0]
    confidence = found.presence * float(probabilities.max())
    text = pipeline.classes[probabilities.argmax()]
    return Answer(picture, found.image, label, text, confidence)


def line_answer(pipeline: Pipeline, picture: Any, label: str) -> Answer:
    """Reads a picture as `read` does; the text is empty if no digit is found."""
    try:
        reading = read(picture, pipeline)
    except DigitNetError:
        return Answer(picture, BLACK, label, "", 0.0)
    seen = np.concatenate([digit.image for digit in reading.digits], axis=1)
    return Answer(picture, seen, label, reading.text, reading.confidence)


def coverage(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """The accuracy on the most confident 50 % to 100 % of the answers."""
    surest = sorted(answers, key=lambda answer: -answer.confidence)
    right = np.cumsum([answer.text == answer.label for answer in surest])
    counts = [round(len(surest) * tenth / 10) for tenth in range(5, 11)]
    return [(f"{count / len(surest):.0%}", f"{right[count - 1] / count:.2%}") for count in counts]


def answers_on(data: str, pipeline: Pipeline, count: int) -> dict[str, list[Answer]]:
    """Results for a data set's test digits, raw, as pictures and in lines, and for empty pages."""
    dataset = load_dataset(data)
    test = dataset.test
    images, labels = list(test.images[..., 0]), [str(label) for label in test.labels]
    raw = pipeline.classify([FoundDigit(image) for image in images]).argmax(axis=1)
    pages = [page_without_digits(np.random.default_rng([1, index])) for index in range(count)]
    return {
        f"{dataset.name}, raw": [
            Answer(image, image, label, pipeline.classes[index], 1.0)
            for image, label, index in zip(images, labels, raw, strict=True)
        ],
        f"{dataset.name}, as pictures": read_all(pipeline, images, labels),
        f"{dataset.name}, in lines": [
            line_answer(pipeline, *line) for line in zip(*written_lines(test, count), strict=True)
        ],
        "pages without a digit": [line_answer(pipeline, page, "") for page in pages],
    }


def written_lines(test: Split, count: int) -> tuple[list[Any], list[str]]:
    """The pictures of `count` lines, and their texts."""
    random = np.random.default_rng(0)
    written = [write_line(test, random) for _ in range(count)]
    return [line.picture for line in written], ["".join(map(str, w.labels)) for w in written]


def sheet(wrong: dict[str, list[Answer]], most: int = 48) -> Image.Image:
    """Draws the first mistakes of each set: picture, normalized digits, true and read text."""
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
    """The picture in grey, `TILE` pixels high."""
    from keras_digitnet.pictures.decoding import read_grey

    grey = Image.fromarray(read_grey(picture))
    width = min(700, max(1, round(grey.width * TILE / grey.height)))
    return grey.resize((width, TILE))


if __name__ == "__main__":
    typer.run(main)
