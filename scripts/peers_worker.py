"""Reads pictures with alternative OCR systems: PP-OCRv4 and Tesseract, digits only.

    ./scripts/peers.sh FOLDER

Runs in a separate environment and imports nothing from this project. FOLDER holds
folders of PNG files. Prints JSON: `versions` by peer, and `answers` by peer and by
folder and way of reading, as the texts of the pictures sorted by name. Each picture
is read as one line: several pieces of text are joined from left to right.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

DIGITS = "0123456789"
# Tesseract's page segmentation modes: a line, a single character, a block.
MODES = (7, 10, 6)

Texts = list[str]


def main(folder: Path) -> None:
    pp_ocr = PPOCR()
    readers: dict[str, dict[str, Callable[[Sequence[Path]], Texts]]] = {
        "PP-OCRv4": {"alone": pp_ocr.recognise, "after its detection": pp_ocr.detect},
        "Tesseract": {f"mode {mode}": partial(tesseract, mode=mode) for mode in MODES},
    }
    answers = {
        peer: {
            f"{pictures.name}, {way}": read(sorted(pictures.glob("*.png")))
            for pictures in sorted(folder.iterdir())
            for way, read in ways.items()
        }
        for peer, ways in readers.items()
    }
    wheel = "rapidocr-onnxruntime"
    versions = {
        "PP-OCRv4": f"PP-OCRv4 of {wheel} {version(wheel)}",
        "Tesseract": f"Tesseract {tesseract_version()}",
    }
    json.dump({"versions": versions, "answers": answers}, sys.stdout)


class PPOCR:
    """PP-OCRv4 in RapidOCR, with its decoder restricted to digits."""

    def __init__(self) -> None:
        import numpy as np
        from rapidocr_onnxruntime import RapidOCR

        # No threshold of confidence, and pictures of the size at which it detects best: it misses
        # most lines of digits that are enlarged to its default of 736 pixels.
        self.engine = RapidOCR(text_score=0.0, det_limit_side_len=128, intra_op_num_threads=1)
        decode = self.engine.text_rec.postprocess_op
        allowed = np.zeros(len(decode.character), bool)
        allowed[[decode.dict[each] for each in ("blank", *DIGITS)]] = True

        def digits(probabilities: Any, *arguments: Any, **options: Any) -> Any:
            return decode(np.where(allowed, probabilities, 0), *arguments, **options)

        self.engine.text_rec.postprocess_op = digits

    def recognise(self, pictures: Sequence[Path]) -> Texts:
        """Reads each picture as one line, without detection."""
        found = [self.engine(str(each), use_det=False, use_cls=False)[0] for each in pictures]
        return ["".join(text for text, _ in each or ()) for each in found]

    def detect(self, pictures: Sequence[Path]) -> Texts:
        """Detects pieces of text in each picture and joins them from left to right."""
        found = [self.engine(str(each), use_det=True, use_cls=False)[0] for each in pictures]
        lefts = [sorted((box[0][0], text) for box, text, _ in each or ()) for each in found]
        return ["".join(text for _, text in each) for each in lefts]


def tesseract(pictures: Sequence[Path], mode: int) -> Texts:
    """Reads all pictures in one process; after a crash, skips the picture and restarts."""
    command = ["tesseract", "-", "-", "--psm", str(mode)]
    command += ["-c", f"tessedit_char_whitelist={DIGITS}", "tsv"]
    texts: Texts = []
    while len(texts) < len(pictures):
        run = subprocess.run(
            command,
            input="".join(f"{each}\n" for each in pictures[len(texts) :]),
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            check=False,
        )
        texts += pages(run.stdout)
        if run.returncode < 0:
            texts.append("")
        elif run.returncode or len(texts) < len(pictures):
            raise SystemExit(f"Error: tesseract: {run.stderr.strip()[-200:]}")
    return texts


def pages(table: str) -> Texts:
    """The text of each page in Tesseract's table, whose level 1 is a page and level 5 a word."""
    texts: Texts = []
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == "1":
            texts.append("")
        elif row["level"] == "5":
            texts[-1] += row["text"].strip()
    return texts


def tesseract_version() -> str:
    run = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    return run.stdout.split()[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
