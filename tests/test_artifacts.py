import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_digitnet.artifacts import (
    RunFolder,
    WriteError,
    create_run_folder,
    newest_version,
    publish_version,
    read_json,
    require_folder,
    temporary_beside,
)
from keras_digitnet.errors import DigitNetError


def write_version(servable_dir: Path) -> Path:
    with temporary_beside(servable_dir / "new") as temporary:
        temporary.mkdir()
        (temporary / "saved_model.pb").touch()
        # Servers that poll the folder consider only whole numbers as versions.
        assert not temporary.name.isdecimal()
        return publish_version(temporary, servable_dir)


def test_versions_published_concurrently_get_different_numbers(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: write_version(tmp_path), range(24)))
    assert sorted(int(version.name) for version in versions) == list(range(4, 28))
    assert all(os.listdir(version) == ["saved_model.pb"] for version in versions)
    assert len(os.listdir(tmp_path)) == 25
    assert newest_version(tmp_path) == tmp_path / "27"
    assert newest_version(tmp_path / "5") == tmp_path / "5"


def test_a_failed_version_leaves_no_files(tmp_path: Path) -> None:
    servable_dir = tmp_path / "digitnet"
    with pytest.raises(RuntimeError), temporary_beside(servable_dir / "new") as temporary:
        temporary.mkdir()
        (temporary / "saved_model.pb").touch()
        raise RuntimeError
    assert os.listdir(servable_dir) == []
    with pytest.raises(FileNotFoundError):
        publish_version(tmp_path / "gone", servable_dir)
    assert newest_version(servable_dir) is None


def test_runs_started_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(
            pool.map(lambda _: create_run_folder(tmp_path, "mnist", "nano", "jax").path, range(16))
        )
    assert len(set(folders)) == 16
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [("mnist", "mnist"), ("../my digits/é", "___my_digits__"), ("", "_"), ("x" * 300, "x" * 40)],
    ids=["a name", "odd characters", "none", "a long one"],
)
def test_a_run_folder_is_named_after_its_data_set(tmp_path: Path, dataset: str, shown: str) -> None:
    run = create_run_folder(tmp_path, dataset, "nano", "jax")
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{shown}-nano-jax", run.path.name)
    assert run.path.parent == tmp_path


def test_a_folder_that_cannot_be_created_is_detected_early(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    require_folder(tmp_path)
    require_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(WriteError, match="expected to write it; received: Not a directory"):
            require_folder(path)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(WriteError, match="received: Permission denied"):
            require_folder(tmp_path / "closed" / "b")


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"classes": []}'])
def test_a_folder_that_is_not_a_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DigitNetError, match=r"config\.json: expected"):
        RunFolder(tmp_path).read_config()


def test_invalid_json_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DigitNetError, match=r"x\.json: expected JSON"):
        read_json(path)
