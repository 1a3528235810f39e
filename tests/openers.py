"""Opens a file in a separate process, to detect crashes of native code and measure memory.

`python openers.py OPENER PATH COUNT FIRST` opens the file, then COUNT mutations of it, from number
FIRST on, and prints each number before opening it; `python openers.py OPENER PATH` opens the file
unchanged. The last line is JSON: how many worked, the slowest in seconds, and the growth of memory
in bytes.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import keras_digitnet as kd
from keras_digitnet.data import load_dataset
from keras_digitnet.errors import DigitNetError
from keras_digitnet.pictures.decoding import read_image

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)


def open_model(path: Path) -> None:
    kd.load(path).predict(IMAGES)


def open_servable(path: Path) -> None:
    open_model(path.parent if path.name == "saved_model.pb" else path.parents[1])


def open_weights(path: Path) -> None:
    open_model(path.with_suffix(".xml"))


def open_picture(path: Path) -> None:
    """Opens a picture in each way, since one may accept what another refuses."""
    for way in (read_image, kd.normalize_digit, lambda picture: kd.read(picture, NANO)):
        try:
            way(path)
        except DigitNetError as error:
            _check(error, path)


def open_data(path: Path) -> None:
    load_dataset(str(path if path.suffix == ".npz" else path.parent))


OPENERS: dict[str, Callable[[Path], None]] = {
    "model": open_model,
    "servable": open_servable,
    "weights": open_weights,
    "picture": open_picture,
    "data": open_data,
}
NANO = kd.load("nano")


def mutated(content: bytes, number: int) -> bytes:
    """The content with bytes changed, a range deleted, repeated or overwritten, or truncated."""
    chance = random.Random(number)
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 16))):
        # Half of the mutations are in the header.
        end = len(changed) if chance.random() < 0.5 else min(len(changed), 400)
        at = chance.randrange(max(end, 1))
        stretch = slice(at, at + chance.choice((1, 4, 100)))
        kind = chance.randrange(10)
        if kind < 6:
            changed[at : at + 1] = chance.choice((b"\xff", b"\0", chance.randbytes(1)))
        elif kind == 6:
            del changed[stretch]
        elif kind == 7:
            changed[at:at] = changed[stretch]
        elif kind == 8:
            changed[stretch] = chance.choice((b"\xff", b"\0")) * len(changed[stretch])
        else:
            del changed[at:]
    return bytes(changed)


def _check(error: DigitNetError, path: Path) -> None:
    names = {path.name, path.with_suffix(".xml").name, str(path.parent), str(path.parents[1])}
    if "\n" in str(error) or not any(name in str(error) for name in names):
        raise AssertionError(f"a message that does not name {path}: {error}") from error


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(opener: str, where: str, count: int = 0, first: int = 0) -> None:
    path = Path(where)
    content = path.read_bytes() if count else b""
    if count:
        OPENERS[opener](path)  # imports what is needed, so that it is not counted below
    idle, worked, slowest = peak_memory(), 0, 0.0
    for number in range(first, first + max(count, 1)):
        print(number, flush=True)
        if count:
            path.write_bytes(mutated(content, number))
        start = time.monotonic()
        try:
            OPENERS[opener](path)
            worked += 1
        except DigitNetError as error:
            _check(error, path)
            if not count:
                print(error, flush=True)
        slowest = max(slowest, time.monotonic() - start)
    print(json.dumps({"worked": worked, "slowest": slowest, "grown": peak_memory() - idle}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
