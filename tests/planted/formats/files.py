"""Files of a written folder that were lost, cut off, zeroed, replaced or added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from planted.formats.planting import DAMAGE, PARITY, FormatFault, Plant, Subject
from support.formats.written import WrittenModel

#: A block of a disk.
_BLOCK = 4096
_Edit = Callable[[bytes], bytes]


def file_plant(name: str, edit: _Edit) -> Plant:
    """Rewrites a file of the folder."""

    def plant(made: WrittenModel) -> None:
        path = made.folder / name
        path.write_bytes(edit(path.read_bytes()))

    return plant


def missing(name: str) -> Plant:
    """Removes a file of the folder."""
    return lambda made: (made.folder / name).unlink()


def added(name: str, content: bytes) -> Plant:
    """Adds a file to the folder."""

    def plant(made: WrittenModel) -> None:
        (made.folder / name).write_bytes(content)

    return plant


def _zeroed(start: float, size: int) -> _Edit:
    """A block that was lost, from this fraction of the file on."""

    def edit(content: bytes) -> bytes:
        first = int(start * len(content))
        return content[:first] + bytes(min(size, len(content) - first)) + content[first + size :]

    return edit


def _flipped(fraction: float) -> _Edit:
    def edit(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[int(fraction * (len(content) - 1))] ^= 0x55
        return bytes(changed)

    return edit


_EDITS: tuple[tuple[str, _Edit], ...] = (
    ("ends 100 bytes early", lambda content: content[:-100]),
    ("ends in the middle", lambda content: content[: len(content) // 2]),
    ("is empty", lambda content: b""),
    ("goes on with zeros", lambda content: content + bytes(_BLOCK)),
    ("goes on with text", lambda content: content + b"more"),
    ("is all zeros", lambda content: bytes(len(content))),
    ("is another kind of file", lambda content: b"PK\3\4" + content[4:]),
    ("begins with a lost block", _zeroed(0.0, _BLOCK)),
    ("has a lost block in the middle", _zeroed(0.5, _BLOCK)),
    ("ends with a lost block", lambda content: content[:-_BLOCK] + bytes(_BLOCK)),
    ("has another byte in the first half", _flipped(0.4)),
    ("has another byte in the second half", _flipped(0.7)),
    ("is twice in itself", lambda content: content * 2),
)


def file_faults(subject: Subject) -> Iterator[FormatFault]:
    """Each kind in the file with the weights, and files that do not belong there."""
    bases = list(subject.bases)
    for index, (id, edit) in enumerate(_EDITS):
        base = bases[index % len(bases)]
        yield FormatFault(f"{base}: {subject.file} {id}", base, file_plant(subject.file, edit), (DAMAGE, PARITY))
    yield FormatFault(f"{bases[0]}: {subject.file} is missing", bases[0], missing(subject.file), (DAMAGE,))
    for name in (".env", "pytorch_model.bin", f"copy-of-{subject.file}"):
        yield FormatFault(f"{bases[-1]}: {name} is added", bases[-1], added(name, b"foreign"), (DAMAGE,))
    yield FormatFault(f"{bases[0]}: a link is added", bases[0], _link, (DAMAGE,))


def _link(made: WrittenModel) -> None:
    (made.folder / "weights.bin").symlink_to(Path("/etc/hostname"))
