"""Measures work on several processors: reading many pictures, training on several devices.

    python scripts/speed_scale.py many --ray-python .venv-ray/bin/python --write
    python scripts/speed_scale.py devices --write

Each row is measured once, in a separate process. Answers must be equal; losses differ by rounding.
"""

import collections
import contextlib
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import readme
import typer
from speed_processes import machine_line

from keras_digitnet.artifacts import RunFolder
from keras_digitnet.cli.output import print_table
from keras_digitnet.data import load_dataset

Write = Annotated[bool, typer.Option("--write", help="Write the tables into scripts/README.md.")]
Data = Annotated[str, typer.Option(help="The data set of the digits.")]
Table = list[tuple[str, ...]]

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def many(
    count: Annotated[int, typer.Option(help="Pictures of one digit.")] = 20_000,
    lines: Annotated[int, typer.Option(help="Pictures of four digits.")] = 2_000,
    broken: Annotated[int, typer.Option(help="How many of each are invalid files.")] = 50,
    ray_python: Annotated[
        str | None, typer.Option(help="A Python with Ray installed; without it, no row for Ray.")
    ] = None,
    data: Data = "mnist",
    write: Write = False,
) -> None:
    """Pictures per second of `predict` and `read`: in one thread, on all processors, on Ray."""
    rows: Table = []
    for command, digits, pictures in (("predict", 1, count), ("read", 4, lines)):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make_pictures(folder / "pictures", pictures, broken, digits, data)
            expected = None
            for name, system in (
                ("`--jobs 1`", ("--jobs", "1")),
                ("every processor", ()),
                ("Ray", None),
            ):
                if system is None and ray_python is None:
                    continue
                found, seconds, memory = (
                    _command(command, folder, system)
                    if system is not None
                    else _ray(str(ray_python), command, folder)
                )
                expected = expected or found
                same = found == expected and len(found) == pictures
                errors = sum(not text for text in found.values())
                rate = f"{pictures / seconds:.1f}"
                mb = f"{memory:,.0f} MB"
                rows.append((f"`{command}`, {name}", rate, mb, str(errors), str(bool(same))))
    columns = ("command", "pictures a second", "memory", "errors", "same answers")
    title = f"{count:,} pictures of a digit, {lines:,} of four, {broken} of each broken"
    _show("speed-many", title, columns, rows, write)


def make_pictures(folder: Path, count: int, broken: int, digits: int, data: str) -> None:
    """Writes pictures of `digits` test digits each, enlarged two or three times, on grey paper."""
    from PIL import Image

    folder.mkdir()
    images = load_dataset(data).test.images[..., 0]
    random = np.random.default_rng(0)
    bad = set(random.choice(count, broken, replace=False).tolist())
    for index in range(count):
        path = folder / f"{index:06d}.png"
        if index in bad:
            path.write_bytes(b"no picture")
            continue
        line = np.concatenate(images[random.integers(len(images), size=digits)], axis=1)
        side = int(random.integers(2, 4))
        ink = np.pad(np.kron(line, np.ones((side, side))), 30)
        paper = 235 - 0.85 * ink + random.normal(0, 4, ink.shape)
        Image.fromarray(paper.clip(0, 255).astype(np.uint8)).save(path)


def _command(
    command: str, folder: Path, options: Sequence[str]
) -> tuple[dict[str, str], float, float]:
    """The text of each file, seconds, and peak memory in MB."""
    path = folder / "answers.csv"
    arguments = ["-m", "keras_digitnet", command, str(folder / "pictures"), "--csv", *options]
    with path.open("w") as file:  # exit code 1: some pictures are invalid
        seconds, memory = _timed([sys.executable, *arguments], file, (0, 1))
    with path.open(newline="") as file:
        found = {Path(row["file"]).name: next(iter(row.values())) for row in csv.DictReader(file)}
    return found, seconds, memory


def _ray(python: str, command: str, folder: Path) -> tuple[dict[str, str], float, float]:
    """The same on a local cluster, including the seconds of its start."""
    import pyarrow.parquet as pq

    script = Path(__file__).with_name("predict_ray.py")
    options = ["--one-digit"] if command == "predict" else []
    arguments = [python, script, folder / "pictures", folder / "answers", *options]
    seconds, memory = _timed([str(argument) for argument in arguments], sys.stdout, (0,))
    rows = [row for path in folder.glob("answers/*") for row in pq.read_table(path).to_pylist()]
    text = "label" if command == "predict" else "text"
    found = {Path(row["path"]).name: " ".join(row[text].split("\n")) for row in rows}
    return found if len(found) == len(rows) else {}, seconds, memory


def _timed(arguments: Sequence[str], output: IO[str], codes: Sequence[int]) -> tuple[float, float]:
    """Seconds of a command, and the peak memory in MB of all its processes together."""
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    peak, start = 0.0, time.perf_counter()
    process = subprocess.Popen(arguments, env=environment, stdout=output, stderr=subprocess.DEVNULL)
    while True:
        peak = max(peak, sum(map(_proportional_memory, _family(process.pid))))
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
            break
    seconds = time.perf_counter() - start
    if code not in codes:
        raise RuntimeError(f"{arguments}: expected an exit code of {codes}; received: {code}")
    return seconds, peak


def _family(process: int) -> list[int]:
    """A process and its descendants."""
    children = collections.defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parent = status.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(status.parent.name))
    family = [process]
    for member in family:
        family += children[member]
    return family


def _proportional_memory(process: int) -> float:
    """Memory of a process in MB; a page that several processes share counts once in all."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1e3
    return 0.0


@app.command()
def devices(
    preset: Annotated[str, typer.Option(help="One of the presets.")] = "nano",
    epochs: Annotated[int, typer.Option(help="Epochs of each run.")] = 2,
    data: Data = "mnist",
    write: Write = False,
) -> None:
    """Losses and seconds on one device, two devices and two processes, on a CPU."""
    flags = "--xla_force_host_platform_device_count=2"
    systems: dict[str, list[dict[str, str]]] = {
        "one device": [{}],
        "two devices": [{"XLA_FLAGS": flags, "devices": "2"}],
        "two processes": [
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "127.0.0.1:18543",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
            }
            for process in (1, 0)
        ],
    }
    rows: Table = []
    for name, processes in systems.items():
        history = _train(processes, preset, epochs, data)
        for epoch, row in enumerate(history, start=1):
            figures = (f"{row['loss']:.9f}", f"{row['val_loss']:.9f}", f"{row['seconds']:.1f} s")
            rows.append((name, str(epoch), *figures))
    columns = ("", "epoch", "loss", "validation loss", "time")
    _show("speed-devices", f"`{preset}` on JAX, {data}", columns, rows, write)


def _train(
    processes: Sequence[dict[str, str]], preset: str, epochs: int, data: str
) -> list[dict[str, Any]]:
    """The history of the run, trained by one or more processes."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "keras_digitnet", "train", "--backend", "jax"]
        command += ["--preset", preset, "--epochs", str(epochs), "--data", data, "--out", place]
        command += ["--no-test", "--no-export", "--quiet"]
        children = []
        for settings in processes:
            chosen = ["--devices", settings["devices"]] if "devices" in settings else []
            environment = os.environ | settings
            children.append(subprocess.Popen([*command, *chosen], env=environment))
        if any(child.wait() for child in children):
            raise RuntimeError(f"{json.dumps(processes)}: a process failed")
        (path,) = Path(place).iterdir()
        with RunFolder(path).history_path.open(newline="") as file:
            rows = itertools.islice(csv.DictReader(file), epochs)
            return [{key: float(value) for key, value in row.items()} for row in rows]


def _show(block: str, title: str, columns: Sequence[str], rows: Table, write: bool) -> None:
    print_table(title, columns, rows)
    if write:
        table = readme.table(columns, rows)
        readme.write_block(block, f"{title}:\n\n{table}\n\n{machine_line()}")


if __name__ == "__main__":
    app()
