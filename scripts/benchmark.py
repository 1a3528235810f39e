"""Measures speed side by side on this machine.

    python scripts/benchmark.py accuracy --write

Each section prints a table of medians, and some draw a figure; each system,
backend and runtime is measured in a separate process. Results are stored as
JSON, in runs/speed or, with --write, in scripts/results/speed, so that an
interrupted section can be resumed. They are measured again after a change of
machine or library versions; delete a file to force it.
"""

import functools
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import readme
import speed_curves
import speed_processes
import typer
from PIL import Image
from speed_processes import Measurement, Worker, measured, once

from keras_digitnet.cli.output import print_table
from keras_digitnet.environment import BACKENDS
from keras_digitnet.formats import EXPORT_FORMATS
from keras_digitnet.plots import save_figure

RESULTS_DIR = Path(__file__).parent / "results" / "speed"
OWN_RESULTS_DIR = Path("runs/speed")
PICTURE_PATH = Path(__file__).parent / "results" / "speed.png"

Write = Annotated[
    bool, typer.Option("--write", help="Store the results and write them into the READMEs.")
]
Data = Annotated[str, typer.Option(help="The data set whose test digits are classified.")]

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None)


def _ours(**settings: Any) -> Callable[[int, str], Measurement]:
    return lambda seed, data: Measurement(
        "speed_training.curve", {**settings, "seed": seed, "data": data}
    )


def _peer(name: str, epochs: int) -> Callable[[int, str], Measurement]:
    return lambda seed, data: Measurement(
        "speed_peers.curve",
        {"peer": name, "epochs": epochs, "seed": seed, "data": data},
        backend="torch",
    )


def _keras_convnet(seed: int, data: str) -> Measurement:
    settings = {"epochs": 15, "seed": seed, "data": data}
    return Measurement("speed_training.keras_convnet_curve", settings)


# Ours first; their settings were chosen on validation digits.
SYSTEMS: dict[str, Callable[[int, str], Measurement]] = {
    "`nano`, 8/32, 2 epochs": _ours(
        preset="nano",
        widths=(8, 32),
        epochs=2,
        learning_rate=0.02,
        warmup_epochs=0.1,
        augmentation="none",
    ),
    "`small`, 4 epochs": _ours(preset="small", epochs=4),
    "one-epoch net": _peer("one_epoch", 1),
    "Keras's convnet": _keras_convnet,
    "first DigitNet": _peer("first_digitnet", 10),
    "pytorch/examples": _peer("pytorch_example", 14),
}


# Its 14 epochs take longer than all others together, without reaching the second goal.
MAX_SEEDS = {"pytorch/examples": 1}


@app.command()
def accuracy(
    seeds: Annotated[int, typer.Option(help="Seeds per system, from 0 on.")] = 3,
    data: Data = "mnist",
    write: Write = False,
) -> None:
    """Seconds of training to 99.0 % and 99.5 % test accuracy, for our networks and others.

    Only here the test digits are scored after every epoch; nothing is selected by them.
    """
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    for seed in range(seeds):  # alternating, so that all systems see the same noise
        for name, measurement in SYSTEMS.items():
            if seed >= MAX_SEEDS.get(name, seeds):
                continue
            slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
            key = f"accuracy-{slug}-{seed}"
            curves[name].append(measured(key, measurement(seed, data), results))
    columns = (
        "system",
        "seeds",
        "first batch",
        "an epoch",
        *speed_curves.COLUMNS_OF_GOALS,
        "at the end",
    )
    rows = [(name, str(len(found)), *speed_curves.row(found)) for name, found in curves.items()]
    print_table(f"{data}, seconds of training, medians", columns, rows)
    picture = PICTURE_PATH if write else OWN_RESULTS_DIR / "speed.png"
    save_figure(speed_curves.plot(curves, data), picture)
    if write:
        _write("speed-accuracy", columns, rows)


@app.command()
def training(
    preset: Annotated[str, typer.Option(help="One of the presets.")] = "base",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare with the stored results; exit with 1 if a backend is a third slower, "
            "relative to direct torch, than it was.",
        ),
    ] = False,
    write: Write = False,
) -> None:
    """Images per second of training on each backend, and of the same network in plain torch."""
    rounds, steps = 5, 15
    systems = {
        "torch, direct": Measurement(
            "speed_peers.throughput", {"preset": preset, "steps": steps}, "torch"
        )
    }
    for backend in BACKENDS:
        for augmentation in ("none", "affine"):
            settings = {"preset": preset, "augmentation": augmentation, "steps": steps}
            systems[f"{backend}, {augmentation}"] = Measurement(
                "speed_training.throughput", settings, backend
            )
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    name = f"training-{preset}"

    def measure() -> dict[str, Any]:
        every = list(speed_processes.in_turns(systems, rounds))
        return {
            key: {
                "rate": statistics.median(one[key]["rate"] for one in every),
                "memory": every[-1][key]["memory"],
            }
            for key in systems
        }

    before = _stored_result(RESULTS_DIR / f"{name}.json") if check else None
    found = measure() if check else once(name, systems, results, measure)
    direct = found["torch, direct"]["rate"]
    columns = (
        "backend",
        "without augmentation",
        "beside direct torch",
        "as by default",
        "peak memory",
    )
    rows = [
        (
            backend,
            f"{found[f'{backend}, none']['rate']:,.0f}",
            f"{found[f'{backend}, none']['rate'] / direct:.2f}",
            f"{found[f'{backend}, affine']['rate']:,.0f}",
            f"{found[f'{backend}, affine']['memory']:,.0f} MB",
        )
        for backend in BACKENDS
    ]
    rows.append(
        (
            "torch, without Keras",
            f"{direct:,.0f}",
            "1.00",
            "",
            f"{found['torch, direct']['memory']:,.0f} MB",
        )
    )
    print_table(f"`{preset}`: images per second, medians of {rounds} rounds", columns, rows)
    if before is not None:
        require_no_regression(before, found)
    if write:
        _write("speed-training", columns, rows)


def _stored_result(path: Path) -> dict[str, Any]:
    from keras_digitnet.artifacts import read_json

    if not path.is_file():
        raise typer.BadParameter(
            f"--check: expected stored results; {path} does not exist. Use --write"
        )
    stored: dict[str, Any] = read_json(path)["result"]
    return stored


def require_no_regression(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Exits with 1 if a speed relative to direct torch has dropped by more than a third."""

    def share(found: dict[str, Any], name: str) -> float:
        return float(found[name]["rate"] / found["torch, direct"]["rate"])

    slower = [name for name in now if share(now, name) < 2 / 3 * share(before, name)]
    for name in slower:
        print(
            f"{name}: expected about {share(before, name):.2f} of direct torch's speed; "
            f"received: {share(now, name):.2f}.",
            file=sys.stderr,
        )
    if slower:
        raise SystemExit(1)


@app.command()
def overhead(
    rounds: Annotated[int, typer.Option(help="Rounds per variant, alternating.")] = 9,
    steps: Annotated[int, typer.Option(help="Steps per round.")] = 300,
    write: Write = False,
) -> None:
    """Milliseconds per step of a tiny network, with and without callbacks, on each backend."""
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    ways = ("none", "ours", "every step")
    rows = []
    for backend in BACKENDS:
        workers = {
            way: Measurement("speed_training.overhead", {"callbacks": way, "steps": steps}, backend)
            for way in ways
        }
        measure = functools.partial(_median_of_rounds, workers, rounds)
        found = once(f"overhead-{backend}", {**workers, "rounds": rounds}, results, measure)
        more = found["ours"] / found["none"] - 1
        none, ours, every_step = (f"{found[way]:.2f} ms" for way in ways)
        rows.append((backend, none, ours, f"{more:+.0%}", every_step))
    columns = ("backend", "no callbacks", "ours", "more", "rate set and loss read every step")
    print_table(f"milliseconds per step, medians of {rounds} rounds", columns, rows)
    if write:
        _write("speed-overhead", columns, rows)


def _median_of_rounds(workers: dict[str, Measurement], rounds: int) -> dict[str, float]:
    every = list(speed_processes.in_turns(workers, rounds))
    return {way: statistics.median(one[way] for one in every) for way in workers}


@app.command()
def formats(data: Data = "mnist", write: Write = False) -> None:
    """Size, agreement, accuracy and speed of every exported format of every preset."""
    from keras_digitnet.artifacts import preset_dir
    from keras_digitnet.environment import select_backend

    select_backend("tensorflow")
    columns = (
        "format",
        "size",
        "difference",
        "accuracy",
        "1 digit, 1 core",
        "1 digit, 2 cores",
        "digits/s, 1 core",
        "digits/s, 2 cores",
    )
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    tables = []
    for preset in ("base", "small", "nano"):
        keras_path = preset_dir(preset) / "model.keras"
        model = {"sha256": hashlib.sha256(keras_path.read_bytes()).hexdigest(), "data": data}
        with tempfile.TemporaryDirectory() as folder:
            measure = functools.partial(_format_rows, keras_path, Path(folder), data)
            rows = once(f"formats-{preset}", model, results, measure)
        print_table(preset, columns, rows)
        tables.append(f"`{preset}`:\n\n{readme.table(columns, rows)}")
    if write:
        readme.write_block("formats", "\n\n".join(tables))


def _format_rows(keras_path: Path, folder: Path, data: str) -> list[tuple[str, ...]]:
    from keras_digitnet.export import export_model

    artifacts = export_model(keras_path, folder, EXPORT_FORMATS)
    paths = [(keras_path, "Keras", keras_path.stat().st_size, "")]
    paths += [(each.path, each.format, each.size, f"{each.difference:.0e}") for each in artifacts]
    rows = []
    for path, name, size, difference in paths:
        found = []
        for cores in (1, 2):
            settings = {"path": str(path), "data": data, "cores": cores}
            with Worker(Measurement("speed_answers.model", settings)) as worker:
                found.append(worker.answer())
        row = (
            name,
            f"{size / 1e3:,.0f} kB",
            difference,
            f"{found[0]['accuracy']:.2%}",
            *(f"{each['milliseconds']:.2f} ms" for each in found),
            *(f"{each['rate']:,.0f}" for each in found),
        )
        rows.append(row)
    return rows


@app.command()
def shell(write: Write = False) -> None:
    """Seconds and memory that a command takes from a cold shell."""
    seven = str(Path(__file__).parent / "seven.png")
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        amount, photo = _pictures_of_two_sizes(Path(folder))
        for name, arguments in (
            ("help", ["--help"]),
            ("info", ["info"]),
            ("predict", ["predict", seven]),
            ("read", ["read", seven]),
            ("read-amount", ["read", amount]),
            ("read-photo", ["read", photo]),
        ):
            measure = functools.partial(_median_cost_of, arguments)
            seconds, memory = once(f"shell-{name}", [name], results, measure)
            shown = " ".join(Path(argument).name for argument in arguments)
            rows.append((f"`keras-digitnet {shown}`", f"{seconds:.2f} s", f"{memory:.0f} MB"))
    columns = ("command", "from a cold shell", "memory")
    print_table("medians of 9", columns, rows)
    if write:
        _write("speed-shell", columns, rows)


def _pictures_of_two_sizes(folder: Path) -> tuple[str, str]:
    """Writes a number of 64x256 pixels and a page of 12 megapixels; returns their paths."""
    page = Image.open(Path(__file__).parent / "page.jpg")
    amount, photo = str(folder / "amount.png"), str(folder / "photo.jpg")
    page.crop((20, 20, 380, 110)).resize((256, 64)).save(amount)
    page.resize((4000, 3000)).save(photo)
    return amount, photo


def _median_cost_of(arguments: list[str]) -> tuple[float, float]:
    seconds, memory = zip(*(_cost_of(arguments) for _ in range(9)), strict=True)
    return statistics.median(seconds), statistics.median(memory)


def _cost_of(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a command."""
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_digitnet", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Not the resource usage of the child, which starts with the memory of this process.
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        if found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text()):
            peak = int(found[1])
        time.sleep(0.005)
    if process.returncode:
        raise RuntimeError(f"{arguments}: expected exit code 0; received {process.returncode}")
    return time.perf_counter() - start, peak / 1000


@app.command()
def serving(
    address: Annotated[str, typer.Argument(help="Address of a classifier on a V2 server.")],
    write: Write = False,
) -> None:
    """Milliseconds of client CPU time for 256 digits, in JSON and as binary tensors."""
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    rows = []
    for form in ("JSON", "binary"):
        settings = {"address": address, "binary": form == "binary"}
        measurement = Measurement("speed_answers.served", settings, None)
        milliseconds = measured(f"serving-{form.lower()}", measurement, results)
        rows.append((form, f"{milliseconds:.1f} ms"))
    columns = ("256 digits", "the client's CPU")
    print_table("medians of 20", columns, rows)
    if write:
        _write("speed-serving", columns, rows)


@app.command()
def growth(
    preset: Annotated[str, typer.Option(help="One of the presets.")] = "nano",
    write: Write = False,
) -> None:
    """Seconds and memory by number of images, for `predict` and an epoch of training."""
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    rows = []
    for images in (1_000, 10_000, 60_000, 600_000):
        row = [f"{images:,}"]
        for what, module, backend in (
            ("predict", "speed_answers", None),
            ("epoch", "speed_training", "tensorflow"),
        ):
            settings = {"preset": preset, "images": images}
            measurement = Measurement(f"{module}.growth", settings, backend)
            found = measured(f"growth-{what}-{preset}-{images}", measurement, results)
            each = 1e6 * found["seconds"] / images
            row += [f"{found['seconds']:.2f} s", f"{each:,.0f} µs", f"{found['memory']:,.0f} MB"]
        rows.append(tuple(row))
    columns = ("images", "predict", "an image", "memory", "an epoch", "an image", "memory")
    print_table(f"`{preset}`, memory of the process without the images", columns, rows)
    if write:
        _write("speed-growth", columns, rows)


@app.command()
def augmentation(write: Write = False) -> None:
    """Images per second of `--augmentation affine` and `layers`."""
    results = RESULTS_DIR if write else OWN_RESULTS_DIR
    rows = []
    for backend in BACKENDS:
        measurement = Measurement("speed_answers.augmentation", {}, backend)
        rates = measured(f"augmentation-{backend}", measurement, results)
        ratio = rates["affine"] / rates["layers"]
        rows.append((backend, f"{rates['affine']:,.0f}", f"{rates['layers']:,.0f}", f"{ratio:.1f}"))
    columns = ("backend", "affine", "layers", "ratio")
    print_table("augmented images per second", columns, rows)
    if write:
        _write("speed-augmentation", columns, rows)


def _write(block: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    readme.write_block(block, f"{readme.table(columns, rows)}\n\n{speed_processes.machine_line()}")


if __name__ == "__main__":
    app()
