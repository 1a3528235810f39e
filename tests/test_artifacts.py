import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_digitnet.artifacts import RunFolder, create_run_folder, read_json, written_whole
from keras_digitnet.errors import DigitNetError


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), written_whole(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    version_dir = tmp_path / "digitnet" / "1"
    with pytest.raises(RuntimeError), written_whole(version_dir) as temporary:
        temporary.mkdir()
        (temporary / "saved_model.pb").touch()
        raise RuntimeError
    assert os.listdir(tmp_path / "digitnet") == []
    with written_whole(version_dir) as temporary:
        temporary.mkdir()
        (temporary / "saved_model.pb").touch()
        # A server that polls takes whole numbers for versions, nothing else.
        assert not any(name.isdecimal() for name in os.listdir(tmp_path / "digitnet"))
    assert os.listdir(version_dir) == ["saved_model.pb"]


def test_a_killed_process_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("old")
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from keras_digitnet.artifacts import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert path.read_text() == "old"


def test_runs_of_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(lambda _: create_run_folder(tmp_path, "nano", "jax").path, range(16))
        )
    assert len(set(folders)) == 16
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"classes": []}'])
def test_a_folder_that_is_no_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DigitNetError, match=r"config\.json: expected"):
        RunFolder(tmp_path).read_config()


def test_json_that_is_none_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DigitNetError, match=r"x\.json: expected JSON"):
        read_json(path)
