"""The parts of a Markdown file that scripts write, between `<!-- NAME: start -->` and its end."""

import html
from collections.abc import Sequence
from pathlib import Path

README_PATH = Path(__file__).parents[1] / "README.md"


def with_block(name: str, text: str) -> str:
    """The README with `text` as the block `name`."""
    start, end = f"<!-- {name}: start -->\n", f"<!-- {name}: end -->\n"
    before, found, rest = README_PATH.read_text().partition(start)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{README_PATH}: expected {start.strip()} and {end.strip()}")
    return f"{before}{start}\n{html.unescape(text).strip()}\n\n{end}{after}"


def write_block(name: str, text: str) -> None:
    README_PATH.write_text(with_block(name, text))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table in Markdown, numbers to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
