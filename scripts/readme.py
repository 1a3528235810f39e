"""Writes the generated blocks of the READMEs, between `<!-- NAME: start -->` and its end."""

import html
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
READMES = tuple(
    ROOT / folder / "README.md" for folder in ("keras_digitnet", "saved_models", "scripts")
)


def with_block(name: str, text: str) -> tuple[Path, str]:
    """The README that has the block `name`, and its text with that block replaced with `text`.

    Raises:
        ValueError: No README has the block.
    """
    start, end = f"<!-- {name}: start -->\n", f"<!-- {name}: end -->\n"
    for path in READMES:
        before, found, rest = path.read_text().partition(start)
        _, found_end, after = rest.partition(end)
        if found and found_end:
            return path, f"{before}{start}\n{html.unescape(text).strip()}\n\n{end}{after}"
    places = ", ".join(str(path.relative_to(ROOT)) for path in READMES)
    raise ValueError(f"{places}: expected {start.strip()} and {end.strip()} in one of them")


def write_block(name: str, text: str) -> None:
    """Replaces the block `name` in the README that has it."""
    path, written = with_block(name, text)
    path.write_text(written)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with all columns but the first aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
