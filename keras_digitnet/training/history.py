"""What a run remembers of each epoch."""

import csv
import io

from keras_digitnet.artifacts import RunFolder, write_text
from keras_digitnet.errors import DigitNetError, first_line

History = list[dict[str, float]]

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


def best_epoch(history: History) -> int:
    """The number of the first epoch, from 1 on, with the lowest validation loss."""
    return 1 + min(range(len(history)), key=lambda index: history[index]["val_loss"])


def write_history(folder: RunFolder, history: History) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(history, start=1))
    write_text(folder.history_path, text.getvalue())


def read_history(folder: RunFolder) -> History:
    """The epochs up to the newest checkpoint; none where there is no checkpoint."""
    epochs = max(folder.checkpoints(), default=0)
    if epochs == 0:
        return []
    try:
        with folder.history_path.open(newline="") as file:
            rows = list(csv.DictReader(file))[:epochs]
        return [{column: float(row[column]) for column in COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DigitNetError(
            f"{folder.history_path}: expected a row an epoch; received: {first_line(error)}."
        ) from None
