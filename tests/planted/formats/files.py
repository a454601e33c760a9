"""Files of a written folder that were cut off, changed or added."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planted.formats.planting import DAMAGE, PARITY, FormatFault, Plant, Subject
from support.formats.written import WrittenModel


def _file_plant(name: str, edit: Callable[[bytes], bytes]) -> Plant:
    """Rewrites a file of the folder."""

    def plant(made: WrittenModel) -> None:
        path = made.folder / name
        path.write_bytes(edit(path.read_bytes()))

    return plant


def replaced(name: str, before: str, after: str) -> Plant:
    """Replaces the first such bytes of a file."""

    def edit(content: bytes) -> bytes:
        assert before.encode() in content
        return content.replace(before.encode(), after.encode(), 1)

    return _file_plant(name, edit)


def added(name: str, content: bytes) -> Plant:
    """Adds a file to the folder."""

    def plant(made: WrittenModel) -> None:
        (made.folder / name).write_bytes(content)

    return plant


def file_faults(subject: Subject) -> Iterator[FormatFault]:
    """An end that is cut off the file with the weights, and a file that does not belong there."""
    first, *_, last = subject.bases
    cut = _file_plant(subject.file, lambda content: content[:-100])
    yield FormatFault("file", f"{first}: {subject.file} ends 100 bytes early", first, cut, (DAMAGE, PARITY))
    yield FormatFault("file", f"{last}: .env is added", last, added(".env", b"foreign"), (DAMAGE,))
