"""Files of a written folder that were lost, cut off, zeroed, replaced or added."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planted.formats.planting import DAMAGE, PARITY, FormatFault, Plant, Subject
from support.formats.written import WrittenModel

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


_EDITS: tuple[tuple[str, _Edit], ...] = (("ends 100 bytes early", lambda content: content[:-100]),)


def file_faults(subject: Subject) -> Iterator[FormatFault]:
    """Each kind in the file with the weights, and a file that does not belong there."""
    bases = list(subject.bases)
    for index, (id, edit) in enumerate(_EDITS):
        base = bases[index % len(bases)]
        yield FormatFault(
            "file", f"{base}: {subject.file} {id}", base, file_plant(subject.file, edit), (DAMAGE, PARITY)
        )
    yield FormatFault("file", f"{bases[-1]}: .env is added", bases[-1], added(".env", b"foreign"), (DAMAGE,))
