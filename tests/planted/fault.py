"""What a planted fault is, and what `seap-export validate` must say about it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, get_args

from planted.editing import Artifact, re_record
from planted.graphs.graph import Edit, edited

#: Numbers and how they are rounded; nodes, what they read and their settings; what says how to compute; other files.
Kind = Literal[
    "weight", "scale", "zero point", "bits", "wiring", "attribute", "constant", "metadata", "tokenizer", "config",
    "code", "file",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
Change = Callable[[Artifact], Any]


class _Any(Enum):
    ANY = "any"


#: In the place of a layer: no part of the model is to blame.
ANY = _Any.ANY
Layer = int | None | _Any
PARITY, ARTIFACT = 3, 7


@dataclass(frozen=True)
class Fault:
    """A change to one of `planted.artifacts`, and the exit codes that are right.

    Attributes:
        is_numeric: Whether the ONNX file and the model compute different things, which results and weights must show;
            otherwise files, or what describes them, are damaged or contradict each other.
        recorded: Whether the manifest has the sizes and hashes of the files as they are now.
        layer: The layer that a bisection must name, None for the embedding, the last norm and the LM head.
        options: Further arguments of the command; {dense} stands for the dense model.
    """

    kind: Kind
    id: str
    base: str
    plant: Change
    is_numeric: bool
    codes: frozenset[int]
    recorded: bool = True
    layer: Layer = ANY
    options: tuple[str, ...] = ()

    @property
    def is_bisected(self) -> bool:
        return self.layer is not ANY


def numeric(kind: Kind, id: str, base: str, edit: Edit, layer: Layer) -> Fault:
    """A fault in the ONNX file."""
    return Fault(kind, id, base, recorded(edited(edit)), True, frozenset({PARITY}), layer=layer)


def structural(kind: Kind, id: str, base: str, edit: Edit) -> Fault:
    """A fault in the ONNX file that results need not tell, as rounding explains it: the graph itself is another."""
    return quiet(kind, id, base, edited(edit))


def quiet(
    kind: Kind,
    id: str,
    base: str,
    change: Change,
    codes: Collection[int] = (ARTIFACT,),
    layer: Layer = ANY,
    **more: Any,
) -> Fault:
    """A change of files that the manifest agrees with: hashes give nothing away."""
    return Fault(kind, id, base, recorded(change), layer is not ANY, frozenset(codes), layer=layer, **more)


def damage(kind: Kind, id: str, base: str, change: Change) -> Fault:
    """A change that the manifest knows nothing of, or of the manifest itself."""
    return Fault(kind, id, base, change, False, frozenset({ARTIFACT}), recorded=False)


def recorded(change: Change) -> Change:
    """The change, and a manifest that agrees with it."""

    def plant(artifact: Artifact) -> None:
        change(artifact)
        re_record(artifact)

    return plant
