"""A file's hash is computed once, and again after every change."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from seap_export.common import hashing
from seap_export.common.hashing import sha256_file, sha256_files


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_until_it_changes_even_at_the_same_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, honest, now = list[str](), hashlib.file_digest, time.time_ns

    def counted(file: Any, algorithm: Any) -> Any:
        names.append(Path(file.name).name)
        return honest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10_000_000_000)  # so that new files are older than a tick
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = path.stat()
    assert [sha256_file(path) for _ in range(3)] == [_sha256(b"one")] * 3
    assert names == ["weights"]
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the file system's clock has ticked
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_file(path) == _sha256(b"two")


def test_a_hash_is_remembered_only_if_the_file_is_older_than_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the file system stands still, as between two ticks, so that a change shows in no time."""
    path = tmp_path / "weights"
    for written, least_age in ((7_000_000_001, 50_000_001), (7_000_000_000, 2_000_000_001)):  # in whole seconds
        state = (1, 1, 3, written, written)
        monkeypatch.setattr(hashing, "_state", lambda _, state=state: state)
        for now, found in ((written + least_age - 1, b"two"), (written + least_age, b"one")):
            monkeypatch.setattr(time, "time_ns", lambda now=now: now)
            monkeypatch.setattr(hashing, "_known", {})
            path.write_bytes(b"one")
            assert sha256_file(path) == _sha256(b"one")
            path.write_bytes(b"two")
            assert sha256_file(path) == _sha256(found)


def test_changes_within_a_tick_are_seen_and_hashes_of_several_files_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for number in range(200):
        content = b"%03d" % number
        path.write_bytes(content)
        assert sha256_file(path) == _sha256(content)
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_text(path.name)
    assert sha256_files(paths) == [_sha256(path.name.encode()) for path in paths]
    assert sha256_files([]) == []
