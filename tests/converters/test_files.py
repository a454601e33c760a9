"""Files are compared, and nothing is left of a folder that could not be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.small_files import Content, copies, json_difference, write_files
from converters.whole import whole_or_nothing
from seap_export.errors import EnvironmentFailure, InputError, UsageError

FILES: dict[str, Content] = {"a.json": {"x": {"y": 1, "z": None}}, "b.txt": b"\r\n", "c.txt": None}


def test_what_is_written_does_not_differ(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.txt"]
    assert copies(tmp_path, "b.txt", "c.txt") == {"b.txt": b"\r\n", "c.txt": None}
    (tmp_path / "b.json").write_text('{"x": {"z": null, "y": 1}}')
    assert list(json_difference(tmp_path / "a.json", tmp_path / "b.json")) == []


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"x": {"y": 2}, "w": 0}', "b.json: 'w', 'x.y', 'x.z' differ"),
        # Python takes the last value, and other readers the first
        ('{"x": {"y": 2, "z": null, "y": 1}}', "b.json: 'y' are given twice"),
        ('{"x": {"y": true, "z": null}}', "'x.y' differ"),
        ("{", "b.json: not a readable JSON"),
    ],
)
def test_other_values_of_json_are_one_line(written: str, said: str, tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    (tmp_path / "b.json").write_text(written)
    (line,) = json_difference(tmp_path / "a.json", tmp_path / "b.json")
    assert said in line


@pytest.mark.parametrize(
    "error", [InputError("damaged"), KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")]
)
def test_a_failure_empties_the_folder_and_is_raised(error: BaseException, tmp_path: Path) -> None:
    def fail() -> None:
        with whole_or_nothing(tmp_path):
            (tmp_path / "model.bin").write_bytes(b"half")
            (tmp_path / "parts").mkdir()
            (tmp_path / "parts" / "1").write_bytes(b"half")
            raise error

    expected = EnvironmentFailure if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        fail()
    assert caught.value is error or f"{tmp_path}" in str(caught.value)
    assert caught.value is error or "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="notes already exists"), whole_or_nothing(tmp_path):
        pytest.fail("the block is not entered")
    assert (tmp_path / "notes").read_text() == "mine"
