"""Files that outlast a crash of the machine.

A crash loses what was not handed to the disk, and may leave zeros in its place, so that the size of a file proves
nothing. What counts is synced before it gets its name; and what an interrupted run leaves for the next one is listed
with checksums, part by part, in a journal. What is not in there as it was noted is not used.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

#: The journal of a folder with an unfinished result.
JOURNAL = ".seap-export-journal"
#: Files that are synced at the same time, which costs hardly more than one.
_TOGETHER = 16
_CHUNK = 1 << 20


class _Part(NamedTuple):
    """A part of a file that was synced to disk; an empty one cancels everything noted behind `start`."""

    name: str
    start: int
    end: int
    checksum: int


def sync(path: Path) -> None:
    """Hands a file, or a folder with all files in it, to the disk."""
    inside = [Path(folder, name) for folder, names, files in os.walk(path) for name in (*names, *files)]
    if inside:
        with ThreadPoolExecutor(_TOGETHER) as threads:
            list(threads.map(_sync, inside))
    _sync(path)


def sync_folder(path: Path) -> None:
    """Hands the names in a folder to the disk, but not the files."""
    _sync(path)


def _sync(path: Path) -> None:
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:  # Windows writes them by itself, and opens none
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks sync only files
            raise
    finally:
        os.close(handle)


def replace(made: Path, target: Path) -> None:
    """Gives a file or folder its name, once all of it is on the disk."""
    sync(made)
    made.replace(target)
    sync_folder(target.parent)


def keep(made: Path, target: Path) -> None:
    """Gives a file its name, and if it belongs to an unfinished result with a journal, syncs and notes it first."""
    journal = _journal_above(target)
    if journal is None:  # no later run will look for it
        made.replace(target)
        return
    size, checksum = made.stat().st_size, 0
    with made.open("rb") as file:
        while data := file.read(_CHUNK):
            checksum = zlib.crc32(data, checksum)
    sync(made)
    _note(journal, target, [(0, size, checksum)])
    made.replace(target)
    sync_folder(target.parent)


def append(path: Path, data: bytes) -> None:
    """Appends to a file, which is made if it is missing, and notes what was appended as `keep` does."""
    with path.open("ab") as file:
        start = file.seek(0, os.SEEK_END)
        file.write(data)
    note(path, [(start, start + len(data), zlib.crc32(data))])


def note(path: Path, parts: Iterable[tuple[int, int, int]]) -> None:
    """Syncs a file that is written part by part, and notes the latest parts, if it belongs to an unfinished result.

    Args:
        path: The file, whose buffers are flushed.
        parts: Where each begins and ends, in bytes, and its CRC-32; an empty one where the file was cut.
    """
    if (journal := _journal_above(path)) is not None:
        sync(path)
        _note(journal, path, parts)


def _note(journal: Path, path: Path, parts: Iterable[tuple[int, int, int]]) -> None:
    name = path.absolute().relative_to(journal.parent).as_posix()
    _write_lines(journal, [[name, *part] for part in parts])


def _journal_above(path: Path) -> Path | None:
    """The journal of the unfinished result that a file belongs to; None: it belongs to none."""
    journals = (folder / JOURNAL for folder in path.absolute().parents)
    return next((journal for journal in journals if journal.is_file()), None)


def begin_or_resume(folder: Path, made_with: Mapping[str, object], ignored: Collection[str] = ()) -> str | None:
    """Begins the journal of an unfinished result, or removes the parts that a later run must not reuse.

    That is what was not noted or differs from its checksum, and all that was made with something else.

    Args:
        made_with: Settings that the result depends on beside its inputs, by their names for users; JSON values.
        ignored: Names of files in the folder that belong to nobody's result.

    Returns:
        A line for the user about what is made again although it was made before; None: there is no such thing.
    """
    journal = folder / JOURNAL
    header, parts = _read(journal)
    files = [path for path in _files(folder) if path.parent != folder or path.name not in ignored]
    line, kept, damaged = None, list[_Part](), list[str]()
    if files and header != made_with:
        line, parts = f"begins anew, since {_difference(header, made_with)}", []
    for path in files:
        name = path.relative_to(folder).as_posix()
        noted = [part for part in parts if part.name == name]
        whole = list(_whole(path, noted))
        size, end = path.stat().st_size, whole[-1].end if whole else 0
        if end < min(size, max((part.end for part in noted), default=0)):
            damaged.append(name)
        kept += whole
        if not whole:
            path.unlink()
        elif end < size:
            os.truncate(path, end)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        line = f"what was damaged since it was interrupted is made again ({damaged[0]}{more})"
    part_file = journal.with_name(f"{JOURNAL}.part")
    part_file.unlink(missing_ok=True)
    _write_lines(part_file, [made_with, *kept])
    replace(part_file, journal)
    return line


def _difference(begun: Mapping[str, object] | None, now: Mapping[str, object]) -> str:
    if begun is None:
        return "the list of what an interrupted run left is damaged"
    names = [name for name in {**now, **begun} if begun.get(name) != now.get(name)]
    return "it was begun with " + ", ".join(f"{name} {begun.get(name)} (now {now.get(name)})" for name in names)


def _files(folder: Path) -> list[Path]:
    every = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path for path in every if path != folder / JOURNAL)


def _whole(path: Path, noted: list[_Part]) -> Iterator[_Part]:
    """The parts from the start of a file on that are as they were noted; of some that begin alike, the longest."""
    end = 0
    with path.open("rb") as file:
        while True:
            for part in sorted((part for part in noted if part.start == end), key=lambda part: -part.end):
                if _is_whole(file, part):
                    break
            else:
                return
            yield part
            end = part.end


def _is_whole(file: BinaryIO, part: _Part) -> bool:
    checksum, left = 0, part.end - part.start
    file.seek(part.start)
    while left and (data := file.read(min(left, _CHUNK))):
        checksum, left = zlib.crc32(data, checksum), left - len(data)
    return not left and checksum == part.checksum


def _read(journal: Path) -> tuple[dict[str, object] | None, list[_Part]]:
    """Reads the settings of a result and its noted parts; incomplete lines are left out."""
    header, parts = None, list[_Part]()
    for line in journal.read_bytes().split(b"\n") if journal.is_file() else ():
        checksum, _, text = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            continue
        value = json.loads(text)
        if isinstance(value, dict):
            header = value
            continue
        part = _Part(*value)
        if part.start == part.end:
            parts = [other for other in parts if other.name != part.name or other.end <= part.start]
        else:
            parts.append(part)
    return header, [] if header is None else parts


def _write_lines(journal: Path, values: Iterable[object]) -> None:
    """Appends lines; each begins with a line break, since the one before may have been cut off."""
    texts = (json.dumps(value).encode() for value in values)
    with journal.open("ab") as file:
        file.write(b"".join(b"\n%08x %b\n" % (zlib.crc32(text), text) for text in texts))
        file.flush()
        os.fsync(file.fileno())
