import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest

from keras_digitnet import environment
from keras_digitnet.environment import metal_status, select_backend
from keras_digitnet.errors import DigitNetError


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this look like an Apple-silicon Mac with these packages, none of which it imports."""

    def pretend(tensorflow: str, metal: str | None, machine: str = "arm64") -> None:
        installed = {"tensorflow": tensorflow, "tensorflow-metal": metal}

        def version(package: str) -> str:
            if found := installed.get(package):
                return found
            raise importlib.metadata.PackageNotFoundError

        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.mark.parametrize(
    ("tensorflow", "metal", "machine", "says"),
    [
        ("2.19.1", "1.2.0", "arm64", "tensorflow-metal works with TensorFlow 2.19.1"),
        ("2.20.0", "1.2.0", "arm64", "needs TensorFlow 2.19 or older; received: 2.20.0"),
        ("2.21.0", None, "arm64", "not installed; TensorFlow computes on the CPU"),
        ("2.21.0", None, "x86_64", "no Apple-silicon Mac"),
    ],
)
def test_on_a_mac_it_says_whether_metal_can_work(
    mac: Callable[..., None], tensorflow: str, metal: str | None, machine: str, says: str
) -> None:
    mac(tensorflow, metal, machine)
    status = metal_status()
    assert status is not None
    assert says in status


def test_a_metal_plugin_that_breaks_tensorflow_is_met_before_the_import(
    mac: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mac("2.21.0", "1.2.0")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(DigitNetError, match="pip uninstall tensorflow-metal"):
        select_backend("tensorflow")


def test_elsewhere_metal_is_no_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert metal_status() is None


def test_a_backend_that_is_unknown_or_missing_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(DigitNetError, match="one of tensorflow, jax, torch; received: 'numpy'"):
        select_backend("numpy")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DigitNetError, match=r"pip install 'keras_digitnet\[jax\]'"):
        select_backend("jax")


@pytest.mark.backends
def test_the_backend_cannot_change_once_keras_runs(backend: str) -> None:
    other = next(name for name in ("jax", "torch") if name != backend)
    with pytest.raises(
        DigitNetError, match=f"Keras already runs on {backend}; received: '{other}'"
    ):
        select_backend(other)


def test_a_backend_that_cannot_start_is_one_message() -> None:
    if find_spec("jax") is None:
        pytest.skip("needs jax")
    program = "from keras_digitnet.environment import select_backend; select_backend('jax')"
    child = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
    )
    assert child.stderr.splitlines()[-1].startswith(
        "keras_digitnet.errors.DigitNetError: The backend jax is installed but cannot start; "
        "received: Unable to initialize backend 'abacus'"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_training_on_jax_takes_its_memory_once() -> None:
    if find_spec("jax") is None:
        pytest.skip("needs jax")
    program = (
        "from keras_digitnet.environment import select_backend\n"
        "select_backend('jax', for_training=True)\n"
        "import jax, jax.numpy as jnp, resource\n"
        "step = jax.jit(lambda x: jnp.sum(jnp.outer(x, x) @ jnp.outer(x, x)))\n"
        "for _ in range(8):\n"
        "    step(jnp.ones(2000)).block_until_ready()\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    faults = [int(line) for line in child.stdout.split()]
    assert faults[-1] - faults[-5] < 1000  # else each step takes very many pages anew


def test_native_notes_are_dropped_unless_something_fails() -> None:
    program = (
        "import os, sys\n"
        "from keras_digitnet.environment import native_notes_dropped\n"
        "with native_notes_dropped():\n"
        "    os.write(2, b'a greeting\\n')\n"
        "print('seen', file=sys.stderr)\n"
        "with native_notes_dropped():\n"
        "    os.write(2, b'the cause\\n')\n"
        "    raise SystemExit(3)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 3
    assert child.stderr == "seen\nthe cause\n"


@pytest.mark.backends
def test_versions_and_devices_are_real(backend: str) -> None:
    found = environment.versions()
    assert found["keras"] == importlib.metadata.version("keras")
    assert found["python"] == platform.python_version()
    assert find_spec(backend) is not None
    assert any("cpu" in device.lower() for device in environment.devices(backend))
