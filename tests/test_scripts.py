"""The scripts as a newcomer meets them: a checkout without .venv, whatever Python is there."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

Bash = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    """Runs bash in a copy of the scripts, with a PATH that finds no Python of the machine."""
    checkout, tools = tmp_path / "checkout", tmp_path / "tools"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (checkout / "pyproject.toml").touch()
    tools.mkdir()
    for name in ("dirname", "cksum", "cut", "rm", "touch"):
        (tools / name).symlink_to(str(shutil.which(name)))

    def run(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(shutil.which("bash")), "-euc", program],
            cwd=tmp_path,
            env={"PATH": str(tools), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def put_python(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / "tools" / name
    path.write_text(f"#!{shutil.which('bash')}\n{content}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["train.sh", "test.sh"])
def test_without_a_python_there_is_one_clear_line(tmp_path: Path, bash: Bash, script: str) -> None:
    put_python(tmp_path, "python3.12", "echo 'command not found' >&2; exit 127")
    answer = bash(f"exec {shutil.which('bash')} checkout/scripts/{script}")
    assert answer.returncode == 2
    assert answer.stderr.startswith("Error: expected Python 3.11, 3.12 or 3.13")
    assert answer.stderr.count("\n") == 1


def test_the_newest_python_that_works_makes_the_environment_once(
    tmp_path: Path, bash: Bash
) -> None:
    put_python(tmp_path, "python3.13", "exit 127")  # a stub, as version managers leave them
    put_python(tmp_path, "python3", f'exec {sys.executable} "$@"')
    # pip itself is what is installed: it is there already, so nothing is downloaded.
    program = "source checkout/scripts/venv.sh pip; $python -c 'import sys; print(sys.prefix)'"
    first = bash(program)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(tmp_path / "checkout" / ".venv")
    assert [line.split()[0] for line in first.stderr.splitlines()] == ["Making", "Installing"]
    second = bash(program)
    assert (second.stdout, second.stderr) == (first.stdout, "")
