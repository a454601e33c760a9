"""What a fault in a written format is, the models that are written, and how a format's files are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from planted.fault import Kind
from support.formats.written import WrittenModel
from support.models import write_micro_model
from support.tokenizers import write_byte_level
from support.uneven import uneven_values
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import ModelSpec, model_spec

#: The arrays of a tensor in a file, to be changed in place: `numbers` [rows, ...], and of levels `scales` [rows, ...]
#: and, where there are any, `points`.
Parts = Mapping[str, NDArray[Any]]
Plant = Callable[[WrittenModel], None]
PARITY, DAMAGE = 3, 7
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}"


class Opener(Protocol):
    """Gives the arrays of a tensor of the plain form, mapped onto the file of a written folder."""

    def __call__(self, made: WrittenModel, name: str) -> Parts: ...


@dataclass(frozen=True)
class Base:
    """A good artifact: one of `VARIATIONS`, perhaps with layers of other shapes, and its precision."""

    variation: str
    precision: str
    is_pruned: bool = True
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def values(self) -> dict[str, Any]:
        """Of config.json."""
        more = {"vocab_size": 130, **self.more}
        return uneven_values(self.variation, **more) if self.is_pruned else {**VARIATIONS[self.variation], **more}

    @property
    def spec(self) -> ModelSpec:
        return model_spec(micro_config(**self.values))

    def write_model(self, folder: Path) -> Path:
        """The model folder, with a byte-level tokenizer and a chat template."""
        write_micro_model(folder, **self.values)
        write_byte_level(folder, chat_template=TEMPLATE)
        return folder


@dataclass(frozen=True)
class FormatFault:
    """A change to what is written of a base; code 7: files are not of the model, 3: it computes otherwise."""

    kind: Kind
    id: str
    base: str
    plant: Plant
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """A format that faults are planted in.

    Attributes:
        holds: Of a tensor of the plain form: "float", or "levels", and "points" if their zero points are stored.
        file: The file with the weights.
        own: Faults that other formats have no place for.
        lacks: Names of faults for which it has none.
    """

    name: str
    bases: Mapping[str, Base]
    open: Opener
    holds: Callable[[Base, str], frozenset[str]]
    file: str
    own: tuple[FormatFault, ...]
    lacks: frozenset[str] = frozenset()


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
