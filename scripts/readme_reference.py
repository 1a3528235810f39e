"""Writes the command-line reference in README.md from the commands' own help.

    python scripts/readme_reference.py [--check]

With --check it writes nothing and fails if the README is out of date.
"""

import subprocess
import sys

from readme import README_PATH, with_block


def main() -> None:
    command = "-m typer keras_digitnet.cli utils docs --name keras-digitnet"
    written = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=True
    )
    reference = "\n".join(
        f"##{line}" if line.startswith("#") else line for line in written.stdout.splitlines()
    )
    current = with_block("reference", reference)
    if current == README_PATH.read_text():
        return
    if "--check" in sys.argv[1:]:
        sys.exit("README.md is out of date: run python scripts/readme_reference.py")
    README_PATH.write_text(current)


if __name__ == "__main__":
    main()
