"""Compares with other OCR systems, PP-OCRv4 and Tesseract, on the same pictures.

Part of `evaluate_real_digits.py`. The peers run in a separate process and environment
(`peers.sh`). They get every picture twice: unchanged, and prepared, that is, dark on
light, enlarged if small, with a margin of its paper. For each set, a peer's best setting
of reading is reported.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer
from PIL import Image, ImageOps

from keras_digitnet.artifacts import read_json, write_json
from keras_digitnet.pictures.decoding import open_upright

# The maximum numbers of single digits per set and of composed lines: the peers are slow.
SAMPLE, LINES = 500, 200
# The minimum height of a prepared picture, and its margin, in pixels.
MIN_HEIGHT, MARGIN = 64, 8
COMMAND = ("bash", str(Path(__file__).with_name("peers.sh")))

Set = tuple[Sequence[Any], Sequence[str]]


def compare(
    sets: Mapping[str, Set], read: Callable[[Any], str], predict: Callable[[Any], str]
) -> tuple[list[str], list[list[str]], str]:
    """Compares on all sets; returns a table's columns and rows, and the peers' versions.

    Args:
        sets: Pictures and labels by name.
        read: Reads the text of a picture.
        predict: Reads the digit of a picture, for sets of single digits.
    """
    rows, versions = [], {}
    for name, chosen in sets.items():
        typer.echo(f"{name} ...", err=True)
        pictures, labels = sample(*chosen)
        answered = answers(pictures)
        versions = answered["versions"]
        row = [name, f"{len(labels):,}"]
        row.append(f"{share([read(each) for each in pictures], labels):.1%}")
        if is_single(labels):
            row.append(f"{share([predict(each) for each in pictures], labels):.1%}")
        else:
            row.append("-")
        for ways in answered["answers"].values():
            right = {way: share(texts, labels) for way, texts in ways.items()}
            best = max(right, key=lambda way: right[way])
            row += [f"{right[best]:.1%}", best]
        rows.append(row)
    columns = ["set", "pictures", "`read`", "`predict`"]
    for peer in versions:
        columns += [peer, "best setting"]
    return columns, rows, ", ".join(versions.values())


def sample(pictures: Sequence[Any], labels: Sequence[str]) -> Set:
    """All strings, or a fixed sample of `SAMPLE` single digits."""
    if len(labels) <= SAMPLE or not is_single(labels):
        return pictures, labels
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:SAMPLE])
    return [pictures[index] for index in chosen], [labels[index] for index in chosen]


def is_single(labels: Sequence[str]) -> bool:
    """Whether each picture of a set holds one digit."""
    return max(map(len, labels)) == 1


def share(texts: Sequence[str], labels: Sequence[str]) -> float:
    """The fraction of texts that equal their label."""
    return sum(text == label for text, label in zip(texts, labels, strict=True)) / len(labels)


def answers(pictures: Sequence[Any]) -> dict[str, Any]:
    """The answers of `peers_worker.py`, cached by the pictures' content."""
    upright = [open_upright(picture) for picture in pictures]
    folders = {"as it is": upright, "enlarged": [enlarged(each) for each in upright]}
    cached = _cache_path(folders)
    if not cached.is_file():
        with TemporaryDirectory() as folder:
            for name, images in folders.items():
                Path(folder, name).mkdir()
                for index, image in enumerate(images):
                    image.save(Path(folder, name, f"{index:05}.png"))
            run = subprocess.run([*COMMAND, folder], stdout=subprocess.PIPE, check=False)
        if run.returncode:  # the script has printed an error
            raise typer.Exit(run.returncode)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_json(cached, json.loads(run.stdout))
    return read_json(cached)


def _cache_path(folders: Mapping[str, Sequence[Image.Image]]) -> Path:
    """The cache file for these pictures and the current worker scripts."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256()
    for name in ("peers.sh", "peers_worker.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    for images in folders.values():
        for image in images:
            digest.update(repr(image.size).encode() + image.tobytes())
    return cache / "keras_digitnet" / "peers-answers" / f"{digest.hexdigest()[:16]}.json"


def enlarged(picture: Image.Image) -> Image.Image:
    """Prepares a picture for the peers: dark on light, enlarged if small, with a margin."""
    if np.median(np.asarray(picture)) < 128:
        picture = ImageOps.invert(picture)
    paper = tuple(int(value) for value in np.median(np.asarray(picture), axis=(0, 1)))
    if picture.height < MIN_HEIGHT:
        width = max(1, round(picture.width * MIN_HEIGHT / picture.height))
        picture = picture.resize((width, MIN_HEIGHT), Image.Resampling.BICUBIC)
    return ImageOps.expand(picture, MARGIN, paper)
