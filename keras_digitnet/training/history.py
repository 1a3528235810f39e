"""The metrics of each epoch of a run, in `history.csv`."""

import csv
import io

from keras_digitnet.artifacts import RunFolder, write_text
from keras_digitnet.errors import DigitNetError, first_line

History = list[dict[str, float]]

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


def best_epoch(history: History) -> int:
    """The number, from 1, of the first epoch with the lowest validation loss."""
    return 1 + min(range(len(history)), key=lambda index: history[index]["val_loss"])


def kept_epoch(history: History, epochs: int) -> int:
    """The number of the epoch whose weights are kept.

    A run of all its epochs keeps the last one, where the learning rate has
    decayed to 0: among earlier epochs the lowest validation loss is mostly
    luck (scripts/recipe_log.md). One that stopped early keeps the best.
    """
    return epochs if len(history) == epochs else best_epoch(history)


def write_history(folder: RunFolder, history: History) -> None:
    """Writes `history.csv`, one row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(history, start=1))
    write_text(folder.history_path, text.getvalue())


def read_history(folder: RunFolder) -> History:
    """The epochs up to the newest checkpoint; empty without a checkpoint.

    Raises:
        DigitNetError: `history.csv` is missing or damaged.
    """
    epochs = max(folder.checkpoints(), default=0)
    if epochs == 0:
        return []
    try:
        with folder.history_path.open(newline="") as file:
            rows = list(csv.DictReader(file))[:epochs]
        return [{column: float(row[column]) for column in COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DigitNetError(
            f"{folder.history_path}: expected one row per epoch; received: {first_line(error)}."
        ) from None
