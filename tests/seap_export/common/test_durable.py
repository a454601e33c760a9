"""What a crash of the machine may leave is not used unless it is as it was noted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seap_export.common import durable

MADE_WITH = {"torch": "2.8.0", "threads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unfinished result: a file that grew, one that was replaced, and two that were not noted."""
    assert durable.begin_or_resume(tmp_path, MADE_WITH) is None
    (tmp_path / "a").mkdir()
    for part in (b"x" * 5000, b"y" * 5000, b"z" * 100):
        durable.append(tmp_path / "a" / "grown", part)
    for text in (b"old", b"older and longer"):
        (tmp_path / "made").write_bytes(text)
        durable.keep(tmp_path / "made", tmp_path / "kept")
    (tmp_path / "a" / "grown").open("ab").write(b"in the middle of a par")
    (tmp_path / "a" / "not noted").touch()
    (tmp_path / "lock").touch()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != durable.JOURNAL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


WHOLE = {"a/grown": b"x" * 5000 + b"y" * 5000 + b"z" * 100, "kept": b"older and longer", "lock": b""}


def test_what_was_noted_stays(folder: Path) -> None:
    for _ in range(2):
        assert durable.begin_or_resume(folder, MADE_WITH, ("lock",)) is None
        assert contents(folder) == WHOLE


def zero(path: Path, start: int, end: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (lambda folder: zero(folder / "kept", 0, 16), {"kept": None}),
        (lambda folder: os.truncate(folder / "kept", 15), {"kept": b"old"}),
        (lambda folder: (folder / "kept").write_bytes(b"old"), {"": None, "kept": b"old"}),
        (lambda folder: zero(folder / "a" / "grown", 9999, 10000), {"a/grown": b"x" * 5000}),
        (lambda folder: zero(folder / "a" / "grown", 0, 1), {"a/grown": None}),
        (lambda folder: os.truncate(folder / "a" / "grown", 10050), {"a/grown": b"x" * 5000 + b"y" * 5000}),
    ],
)
def test_what_is_damaged_goes_up_to_the_last_part_that_is_not(
    folder: Path, harm: Callable[[Path], object], left: dict[str, bytes | None]
) -> None:
    harm(folder)
    line = durable.begin_or_resume(folder, MADE_WITH, ("lock",))
    expected = {name: text for name, text in {**WHOLE, **left}.items() if text is not None}
    assert contents(folder) == expected
    assert line is None if "" in left else next(iter(left)) in str(line)


def test_parts_behind_a_cut_no_longer_count(folder: Path) -> None:
    """What is written there next may have the same start, and be interrupted."""
    grown = folder / "a" / "grown"
    os.truncate(grown, 5000)
    durable.note(grown, [(5000, 5000, 0)])
    grown.open("ab").write(b"y" * 6000)
    assert durable.begin_or_resume(folder, MADE_WITH, ("lock",)) is None
    assert contents(folder) == {**WHOLE, "a/grown": b"x" * 5000}


@pytest.mark.parametrize("start", [0, 60, 200])
def test_a_damaged_journal_lists_what_is_left_of_it(folder: Path, start: int) -> None:
    journal = folder / durable.JOURNAL
    zero(journal, start, journal.stat().st_size)
    line = durable.begin_or_resume(folder, MADE_WITH, ("lock",))
    assert contents(folder).items() <= WHOLE.items()
    assert (line is not None) == (start < 60)
    durable.append(folder / "new", b"n")
    assert durable.begin_or_resume(folder, MADE_WITH, ("lock",)) is None
    assert contents(folder)["new"] == b"n"
    line = durable.begin_or_resume(folder, {"torch": "2.9.0", "threads": 2}, ("lock",))  # with something else
    assert contents(folder) == {"lock": b""}
    assert "torch 2.8.0 (now 2.9.0)" in str(line)
    assert "threads" not in str(line)


def test_files_and_their_names_are_synced_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with an unfinished result and outside of one; the journal is written before the name changes."""
    done: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        plain = getattr(os, name)

        def call(first: object, *others: object) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{first}")) if name == "fsync" else Path(str(first))
            done.append(f"{name} {path.relative_to(tmp_path)}")
            plain(first, *others)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync"))
    monkeypatch.setattr(Path, "replace", lambda made, target: noted("rename")(made, target))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").touch()
    durable.replace(tmp_path / "made", tmp_path / "result")
    assert done == ["fsync made/file", "fsync made", "rename made", "fsync ."]
    durable.begin_or_resume(tmp_path, MADE_WITH, ("result",))
    done.clear()
    (tmp_path / "part").touch()
    durable.keep(tmp_path / "part", tmp_path / "kept")
    assert done == ["fsync part", f"fsync {durable.JOURNAL}", "rename part", "fsync ."]
