"""What a format says of its small files is written, and what differs from it is named."""

from __future__ import annotations

from pathlib import Path

from converters.small_files import Content, copies, file_differences, write_files

FILES: dict[str, Content] = {"a.json": {"x": {"y": 1, "z": None}}, "b.txt": b"\r\n", "c.txt": None}


def test_what_is_written_does_not_differ(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.txt"]
    assert copies(tmp_path, "b.txt", "c.txt") == {"b.txt": b"\r\n", "c.txt": None}
    assert list(file_differences(tmp_path, FILES)) == []
    (tmp_path / "a.json").write_text('{"x": {"z": null, "y": 1}}')
    assert list(file_differences(tmp_path, FILES)) == []


def test_each_file_that_differs_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": {"y": 2}, "w": 0}')
    (tmp_path / "b.txt").write_bytes(b"\n")
    (tmp_path / "c.txt").write_bytes(b"")
    values, data, surplus = file_differences(tmp_path, FILES)
    assert "a.json: 'w', 'x.y', 'x.z' differ" in values
    assert "b.txt: differs" in data
    assert "c.txt: the model's folder has no such file" in surplus


def test_a_key_that_is_given_twice_is_named(tmp_path: Path) -> None:
    """Python takes the last value, and other readers the first."""
    (tmp_path / "b.txt").write_bytes(b"\r\n")
    (tmp_path / "a.json").write_text('{"x": {"y": 2, "z": null, "y": 1}}')
    (line,) = file_differences(tmp_path, FILES)
    assert "a.json: 'y' are given twice" in line
    (tmp_path / "a.json").write_text('{"x": {"y": true, "z": null}}')
    (line,) = file_differences(tmp_path, FILES)
    assert "'x.y' differ" in line


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    damaged, missing = file_differences(tmp_path, FILES)
    assert "a.json: not a readable JSON" in damaged
    assert "b.txt: missing" in missing
