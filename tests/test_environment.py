import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from environments import without_backend

from keras_digitnet import environment, jax_process
from keras_digitnet.environment import metal_status, select_backend
from keras_digitnet.errors import DigitNetError


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulates an Apple-silicon Mac with these packages, which are not imported."""

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
        ("2.20.0", "1.2.0", "arm64", "expected TensorFlow 2.19 or older; received: 2.20.0"),
        ("2.21.0", None, "arm64", "not installed; TensorFlow computes on the CPU"),
        ("2.21.0", None, "x86_64", "no Apple silicon"),
    ],
)
def test_on_a_mac_info_says_whether_metal_works(
    mac: Callable[..., None], tensorflow: str, metal: str | None, machine: str, says: str
) -> None:
    mac(tensorflow, metal, machine)
    status = metal_status()
    assert status is not None
    assert says in status


def test_a_metal_plugin_that_breaks_tensorflow_is_detected_before_the_import(
    mac: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mac("2.21.0", "1.2.0")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(DigitNetError, match="pip uninstall tensorflow-metal"):
        select_backend("tensorflow")


def test_metal_is_not_mentioned_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_training_on_jax_allocates_its_memory_once() -> None:
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
    assert faults[-1] - faults[-5] < 1000  # otherwise each step allocates many pages again


def test_memory_is_only_kept_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert not jax_process._has_accelerator()  # the tests' environment has no JAX plugin
    (tmp_path / "jax_plugins").mkdir()  # the package of plugins for GPUs
    monkeypatch.syspath_prepend(tmp_path)
    assert jax_process._has_accelerator()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not jax_process._has_accelerator()


def test_compiled_programs_are_cached_unless_impossible_or_configured_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # turned off by the user
    jax_process.enable_compilation_cache()
    assert jax_process.compilation_cache() is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax_process.enable_compilation_cache()
    assert str(jax_process.compilation_cache()).startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())  # JAX creates the folder when needed
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    jax_process.enable_compilation_cache()
    assert jax_process.compilation_cache() is None


def test_a_command_reuses_programs_compiled_earlier(tmp_path: Path) -> None:
    if find_spec("jax") is None:
        pytest.skip("needs jax")
    program = (
        "from keras_digitnet.jax_process import enable_compilation_cache\n"
        "enable_compilation_cache()\n"
        "import os, jax, jax.numpy as jnp\n"
        "def slow(x):\n"
        "    for _ in range(60):\n"
        "        x = jnp.tanh(x @ x) + 1\n"
        "    return x\n"
        "jax.jit(slow)(jnp.ones((50, 50))).block_until_ready()\n"
    )
    names = os.environ.keys() - {"JAX_COMPILATION_CACHE_DIR"}
    places = {
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    kept = []
    for _ in range(2):
        child = subprocess.run(
            [sys.executable, "-c", program],
            env={name: os.environ[name] for name in names} | places,
            capture_output=True,
            text=True,
        )
        assert (child.returncode, child.stderr) == (0, "")
        kept.append({path.name for path in tmp_path.glob("*/jax/*/*-cache")})
    assert kept[0]
    assert kept[0] == kept[1]


def test_native_messages_are_suppressed_unless_something_fails() -> None:
    program = (
        "import os, sys\n"
        "from keras_digitnet.environment import suppress_native_stderr\n"
        "with suppress_native_stderr():\n"
        "    os.write(2, b'a greeting\\n')\n"
        "print('seen', file=sys.stderr)\n"
        "with suppress_native_stderr():\n"
        "    os.write(2, b'the cause\\n')\n"
        "    raise SystemExit(3)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 3
    assert child.stderr == "seen\nthe cause\n"


Command = Callable[..., subprocess.CompletedProcess[str]]

WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


@pytest.fixture
def without_tensorflow(tmp_path: Path) -> dict[str, str | None]:
    """The environment of a machine without TensorFlow and with no backend named."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return {"PYTHONPATH": path, "KERAS_BACKEND": None, "KERAS_HOME": str(tmp_path)}


def installed() -> str:
    return ", ".join(name for name in ("jax", "torch") if find_spec(name))


def test_without_tensorflow_a_message_lists_the_alternatives(
    command: Command, without_tensorflow: dict[str, str | None]
) -> None:
    if not installed():
        pytest.skip("needs jax or torch")
    arguments = ("train", "--data", "digits", "--no-export")
    child = command(*arguments, **without_tensorflow)
    assert child.returncode == 2
    assert child.stderr.startswith(
        "Error: The backend tensorflow, which is Keras's default, is not installed. "
        f"Installed: {installed()}. Choose one: KERAS_BACKEND="
    )
    assert len(child.stderr.splitlines()) == 1
    one = next(name for name in ("jax", "torch") if find_spec(name))
    child = command("train", "--data", "digits", "--backend", one, **without_tensorflow)
    assert child.stderr.startswith("Error: export (--no-export skips it): expected TensorFlow")


def test_without_tensorflow_info_works(
    command: Command, without_tensorflow: dict[str, str | None]
) -> None:
    child = command("info", "--json", **without_tensorflow)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["versions"]["keras"] == importlib.metadata.version("keras")
    assert "backend" not in found
    assert found["problem"].startswith("The backend tensorflow, which is Keras's default, is not")
    assert found["problem"] in " ".join(command("info", **without_tensorflow).stdout.split())


def test_without_tensorflow_python_says_the_same(
    without_tensorflow: dict[str, str | None],
) -> None:
    found = {name: value for name, value in without_tensorflow.items() if value is not None}
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    child = subprocess.run(
        [sys.executable, "-c", "import keras_digitnet as kd; kd.train"],
        env=environment | found,
        capture_output=True,
        text=True,
    )
    message = child.stderr.splitlines()[-1]
    assert message.startswith("keras_digitnet.errors.DigitNetError: The backend tensorflow, which")


@pytest.mark.backends
def test_keras_json_names_the_backend(command: Command, backend: str, tmp_path: Path) -> None:
    settings = tmp_path / "keras.json"
    settings.write_text(json.dumps({"backend": backend}))
    keras_home: dict[str, str | None] = {"KERAS_BACKEND": None, "KERAS_HOME": str(tmp_path)}
    assert json.loads(command("info", "--json", **keras_home).stdout)["backend"] == backend
    settings.write_text(json.dumps({"backend": "theano"}))
    child = command("train", "--data", "digits", **keras_home)
    assert child.returncode == 2
    assert f"received: 'theano', which {settings} names." in child.stderr


def test_an_invalid_keras_json_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "bfloat16"}))
    child = command("train", "--data", "digits", KERAS_HOME=str(tmp_path))
    assert child.returncode == 2
    assert "cannot start; received: Invalid `floatx` configuration" in child.stderr
    assert child.stderr.endswith(f"Change it in {tmp_path / 'keras.json'}.\n")
    assert len(child.stderr.splitlines()) == 1


# TensorFlow warns of several models in one process.
QUIET = """
import sys
import keras_digitnet as kd
digits = kd.load_dataset("digits")
model = kd.ModelConfig(widths=(8,), depths=(1,), augmentation="none")
for seed in range(3):
    config = kd.TrainConfig(
        data="digits", seed=seed, epochs=1, batch_size=64, min_images_per_epoch=128, export=False,
        model=model,
    )
    run = kd.train(config, out_dir=sys.argv[1], verbose=0)
    kd.load(run.model_path).predict(digits.test.images)
"""


@pytest.mark.backends
def test_training_is_quiet_from_python(backend: str, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", QUIET, tmp_path],
        env={name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")},
        capture_output=True,
        text=True,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


# Processes without standard streams, and without temporary files

NO_STREAMS = """
import os, sys
{close}
import keras_digitnet as kd
digits = kd.load_dataset("digits")
found = kd.load("nano", os.environ["KERAS_BACKEND"]).predict(digits.test.images)
kd.train(
    kd.TrainConfig(
        data="digits", epochs=1, batch_size=64, min_images_per_epoch=128, export=False,
        model=kd.ModelConfig(widths=(8,), depths=(1,), augmentation="none"),
    ),
    out_dir=sys.argv[1],
)
with open(sys.argv[2], "w") as file:
    file.write(str((found.labels == digits.test.labels).mean()))
"""


@pytest.mark.backends
@pytest.mark.parametrize(
    "close",
    [
        "sys.stdout = sys.stderr = None",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None; os.closerange(0, 3)",
    ],
    ids=["none", "closed", "no descriptors"],
)
def test_loading_and_training_work_without_streams(close: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    program = NO_STREAMS.format(close=close)
    subprocess.run([sys.executable, "-c", program, tmp_path / "runs", answer], check=True)
    assert float(answer.read_text()) > 0.8
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "model.keras").is_file()


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in bash, which can close its streams."""
    return subprocess.run(
        ["bash", "-c", script, sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_works_without_stderr() -> None:
    picture = ROOT / "scripts" / "seven.png"
    child = shell('"$0" -m keras_digitnet predict "$1" 2>&-', picture)
    assert (child.returncode, child.stdout[0]) == (0, "7")
    assert shell('"$0" -m keras_digitnet predict none.png 2>&-').returncode == 2


def test_the_command_without_stdout_reports_that_its_output_is_lost() -> None:
    child = shell('"$0" -m keras_digitnet predict "$1" >&-', ROOT / "scripts" / "seven.png")
    assert child.returncode == 2
    assert child.stderr == (
        "Error: stdout: expected an open stream for the output of predict; "
        "received: a closed one.\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's resource limits")
@pytest.mark.parametrize("needs_tensorflow", ["nano/model.keras", "base/digitnet"])
def test_without_a_temporary_folder_the_command_works_or_names_it(needs_tensorflow: str) -> None:
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no file can be written
        "import keras_digitnet as kd\n"
        "images = kd.load_dataset('digits').test.images[:8]\n"
        "print(kd.load('nano').predict(images).labels.shape)\n"
        "kd.load(sys.argv[1])\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, ROOT / "saved_models" / needs_tensorflow],
        env=without_backend(),
        capture_output=True,
        text=True,
    )
    assert child.stdout == "(8,)\n", child.stderr
    message = child.stderr.splitlines()[-1]
    assert "No usable temporary directory found" in message
    assert message.endswith("Set the environment variable TMPDIR to a writable folder.")


@pytest.mark.backends
def test_versions_and_devices_are_real(backend: str) -> None:
    found = environment.versions()
    assert found["keras"] == importlib.metadata.version("keras")
    assert found["python"] == platform.python_version()
    assert find_spec(backend) is not None
    assert any("cpu" in device.lower() for device in environment.devices(backend))
