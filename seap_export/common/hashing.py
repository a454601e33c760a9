"""Hashes that link an artifact to what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

#: Device, inode, size, time of the last write and of the last change of the inode, the times in nanoseconds.
_State = tuple[int, int, int, int, int]
_known: dict[_State, str] = {}
#: A second write within a tick of the file system's clock does not change a file's times, so a hash is remembered only
#: if the file was older than a tick. Ticks are 10 ms or less, and 2 s where the times are whole seconds.
_TICK_NS, _COARSE_TICK_NS = 50_000_000, 2_000_000_000
#: Bytes that take longer to hash than threads to start.
_WORTH_THREADS = 4 * 2**20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes. A process reads a file again only if it has changed since."""
    with path.open("rb") as file:
        state, now = _state(file.fileno()), time.time_ns()
        if state in _known:
            return _known[state]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _is_settled(state, now) and state == _state(file.fileno()):
            _known[state] = digest
    return digest


def sha256_files(paths: Iterable[Path]) -> list[str]:
    """The SHA-256 of each file, several read at a time if they are large: hashing does not hold Python's lock."""
    paths = list(paths)
    if sum(path.stat().st_size for path in paths) < _WORTH_THREADS:
        return list(map(sha256_file, paths))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(sha256_file, paths))


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _state(descriptor: int) -> _State:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(state: _State, now: int) -> bool:
    tick = _TICK_NS if state[3] % 1_000_000_000 else _COARSE_TICK_NS
    return now - max(state[3:]) > tick
