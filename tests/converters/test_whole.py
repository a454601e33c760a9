"""What a failed writer leaves, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.whole import whole_or_nothing
from seap_export.errors import EnvironmentFailure, InputError, UsageError


def _write_part(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"half")
    (folder / "parts").mkdir()
    (folder / "parts" / "1").write_bytes(b"half")


def _fail(folder: Path, error: BaseException) -> None:
    with whole_or_nothing(folder):
        _write_part(folder)
        raise error


@pytest.mark.parametrize("error", [InputError("damaged"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_empties_the_folder_and_is_raised(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught:
        _fail(tmp_path, error)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="No space left on device") as caught:
        _fail(tmp_path, OSError(28, "No space left on device"))
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="notes already exists"), whole_or_nothing(tmp_path):
        pytest.fail("the block is not entered")
    assert (tmp_path / "notes").read_text() == "mine"
