"""The shell scripts in a new checkout without a .venv, with any Python."""

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
    """Runs bash in a copy of the scripts, with a PATH without the machine's Python."""
    checkout, tools = tmp_path / "checkout", tmp_path / "tools"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (checkout / "pyproject.toml").touch()
    tools.mkdir()
    for name in ("dirname", "cksum", "cut", "mktemp", "rm", "tail", "tee", "touch"):
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{content}\n")
    path.chmod(0o755)


def put_environment(tmp_path: Path, pip: str = "", pytest: str = "") -> None:
    """A .venv whose Python is a bash script with these commands."""
    put_python(
        tmp_path,
        "../checkout/.venv/bin/python",
        f'case "$1 $2 $3" in "-m pip install") {pip} : ;; "-m pytest "*) {pytest} : ;; esac',
    )


@pytest.mark.parametrize(
    ("script", "versions"),
    [("train.sh", "3.11, 3.12 or 3.13"), ("test.sh", "3.11, "), ("serving_env.sh", "3.11 or 3.12")],
)
def test_without_a_python_there_is_one_clear_line(
    tmp_path: Path, bash: Bash, script: str, versions: str
) -> None:
    put_python(tmp_path, "python3.12", "echo 'command not found' >&2; exit 127")
    answer = bash(f"exec {shutil.which('bash')} checkout/scripts/{script}")
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"Error: expected Python {versions}")
    assert answer.stderr.count("\n") == 1


def test_the_newest_working_python_creates_the_environment_once(tmp_path: Path, bash: Bash) -> None:
    put_python(tmp_path, "python3.13", "exit 127")  # a stub, as version managers leave them
    put_python(tmp_path, "python3", f'exec {sys.executable} "$@"')
    # Installs pip, which exists already, so nothing is downloaded.
    program = "source checkout/scripts/venv.sh pip; $python -c 'import sys; print(sys.prefix)'"
    first = bash(program)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(tmp_path / "checkout" / ".venv")
    assert [line.split()[0] for line in first.stderr.splitlines()] == ["Creating", "Installing"]
    second = bash(program)
    assert (second.stdout, second.stderr) == (first.stdout, "")


PIP = """
cat <<'END'
Obtaining file:///checkout
  Checking if build backend supports build_editable: started
Collecting keras>=3.15.1 (from keras_digitnet==0.1.0)
  Downloading keras-3.15.1-py3-none-any.whl.metadata (6.3 kB)
Requirement already satisfied: pip in /usr/lib (26.1)
Downloading keras-3.15.1-py3-none-any.whl (1.5 MB)
Installing collected packages: namex, keras
Successfully installed keras-3.15.1 namex-0.1.0
END
"""


def test_installing_shows_each_downloaded_package(tmp_path: Path, bash: Bash) -> None:
    put_environment(tmp_path, pip=PIP.replace("cat", str(shutil.which("cat"))))
    assert bash("source checkout/scripts/venv.sh").stderr.splitlines() == [
        "Installing keras_digitnet into .venv (once; a few minutes) ...",
        "Collecting keras>=3.15.1",
        "Downloading keras-3.15.1-py3-none-any.whl (1.5 MB)",
        "Installing them; a minute or two ...",
    ]


def test_a_failed_installation_is_retried(tmp_path: Path, bash: Bash) -> None:
    put_environment(tmp_path, pip="echo 'ERROR: no network' >&2; exit 1;")
    for _ in range(2):
        answer = bash("source checkout/scripts/venv.sh")
        assert answer.returncode == 1
        assert answer.stderr.splitlines()[-1] == "ERROR: no network"


@pytest.mark.parametrize(
    ("codes", "failed"),
    [
        ({}, ""),
        ({"jax": 5, "torch": 5}, ""),  # the arguments select none of their tests
        ({"tensorflow": 5}, " tensorflow"),
        ({"tensorflow": 1, "torch": 2}, " tensorflow torch"),
    ],
    ids=str,
)
def test_every_backend_is_tested_before_the_tests_fail(
    tmp_path: Path, bash: Bash, codes: dict[str, int], failed: str
) -> None:
    cases = " ".join(f"{backend}) exit {code} ;;" for backend, code in codes.items())
    said = 'echo "a test of $KERAS_BACKEND"; echo "7 passed in 3s";'
    put_environment(tmp_path, pytest=f"{said} case $KERAS_BACKEND in {cases} *) ;; esac;")
    answer = bash(f"exec {shutil.which('bash')} checkout/scripts/test.sh")
    lines = answer.stdout.splitlines()
    assert lines[-3:] == [f"{name}: 7 passed in 3s" for name in ("tensorflow", "jax", "torch")]
    assert [line for line in lines if line.startswith("a test of")] == [
        f"a test of {name}" for name in ("tensorflow", "jax", "torch")
    ]
    errors = answer.stderr.splitlines()[1:]  # the first one is about installing
    assert (answer.returncode, errors) == (
        (1, [f"Error: expected every test to pass; some failed on:{failed}."])
        if failed
        else (0, [])
    )
