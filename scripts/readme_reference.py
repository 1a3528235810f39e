"""Writes the command-line reference in keras_digitnet/README.md from the commands' help texts.

    python scripts/readme_reference.py [--check]

With --check nothing is written, and the exit code is 1 if the reference is out of date.
"""

import subprocess
import sys

from readme import with_block


def main() -> None:
    """Writes or checks the reference."""
    command = "-m typer keras_digitnet.cli utils docs --name keras-digitnet"
    written = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=True
    )
    reference = "\n".join(
        f"##{line}" if line.startswith("#") else line for line in written.stdout.splitlines()
    )
    path, current = with_block("reference", reference)
    if current == path.read_text():
        return
    if "--check" in sys.argv[1:]:
        sys.exit(f"{path} is out of date: run python scripts/readme_reference.py")
    path.write_text(current)


if __name__ == "__main__":
    main()
