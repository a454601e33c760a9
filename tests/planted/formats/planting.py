"""What a fault in a written format is, the models that are written, and how a format's files are opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from planted.kinds import Kind
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
    """A good artifact: a micro model, and the precision that it is written in.

    Attributes:
        variation: One of `VARIATIONS`.
        precision: That of the format.
        is_pruned: Whether each layer has another shape.
        more: Further config values.
    """

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
    """A change to a written folder.

    Attributes:
        kind: What is at fault.
        id: A name of its own within the format.
        base: The artifact that it is planted in.
        plant: Makes the change.
        codes: The exit codes that are right: 7 if files are damaged or not of the model, 3 if it computes otherwise.
    """

    kind: Kind
    id: str
    base: str
    plant: Plant
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """A format that faults are planted in.

    Attributes:
        name: The format's.
        bases: The artifacts.
        open: Gives a tensor's arrays.
        holds: Of a tensor of the plain form: "float", or "levels", and "points" if their zero points are stored.
        file: The file with the weights.
        own: Faults that other formats have no place for, or another one.
        lacks: Kinds of faults for which it has no place, by name.
    """

    name: str
    bases: Mapping[str, Base]
    open: Opener
    holds: Callable[[Base, str], frozenset[str]]
    file: str
    own: tuple[FormatFault, ...]
    lacks: frozenset[str] = frozenset()
