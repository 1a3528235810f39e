"""Writes the command-line reference in README.md from the commands' own help.

    python scripts/readme_reference.py [--check]

With --check it writes nothing and fails if the README is out of date.
"""

import html
import subprocess
import sys
from pathlib import Path

README_PATH = Path(__file__).parents[1] / "README.md"
START, END = "<!-- reference: start -->\n", "<!-- reference: end -->\n"


def main() -> None:
    command = "-m typer keras_digitnet.cli utils docs --name keras-digitnet"
    written = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=True
    )
    reference = html.unescape(written.stdout).strip()
    reference = "\n".join(
        f"##{line}" if line.startswith("#") else line for line in reference.splitlines()
    )
    readme = README_PATH.read_text()
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    current = f"{before}{START}\n{reference}\n\n{END}{after}"
    if current == readme:
        return
    if "--check" in sys.argv[1:]:
        sys.exit("README.md is out of date: run python scripts/readme_reference.py")
    README_PATH.write_text(current)


if __name__ == "__main__":
    main()
