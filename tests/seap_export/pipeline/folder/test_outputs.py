from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.errors import UsageError
from seap_export.pipeline.folder.outputs import make_folders, remove_leftovers, scratch_folder, write_whole as write_file


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def write(target: Path, error: BaseException, marker: str | None = None, *, force: bool = False) -> None:
    """Begins to write, then fails."""
    with write_file(target, marker=marker, force=force) as path:
        (path if marker is None else path / marker).write_text("half")
        raise error


def overtaken(target: Path) -> None:
    """Writes a file that somebody else writes too."""
    with write_file(target) as path:
        path.write_text("mine")
        target.write_text("theirs")


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "file"
    with write_file(target) as path:
        path.write_text("whole")
        assert not target.exists()
        assert path.stat().st_dev == tmp_path.stat().st_dev
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_but_what_stood_there(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write(tmp_path / "a" / "b", error(), marker="m")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("old")
    with pytest.raises(error):
        write(tmp_path / "file", error(), force=True)
    with pytest.raises(UsageError, match="already exists"):
        overtaken(tmp_path / "other")
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["old", "theirs"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "m").write_text("old")
    (tmp_path / "f" / "stale").touch()
    with write_file(tmp_path / "f", marker="m", force=True) as path:
        (path / "m").write_text("new")
    assert names(tmp_path) == ["f", "f/m"]
    assert (tmp_path / "f" / "m").read_text() == "new"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with write_file(tmp_path / "link", force=True) as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_folders_that_stay_empty_go_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with make_folders(tmp_path / "there" / "a" / "b"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
    assert names(tmp_path) == ["there"]
    with make_folders(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert names(tmp_path) == ["a", "a/kept", "there"]


def test_leftovers_are_scratch_folders_only(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        left = scratch.name
    (tmp_path / left).mkdir()
    (tmp_path / left / "half").touch()
    (tmp_path / ".seap-export.lock").touch()
    (tmp_path / "mine").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".seap-export.lock", "mine"]
