"""What a planted fault is, and what `seap-export validate` must say about it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from planted.editing import Artifact, re_record
from planted.graphs.graph import Edit, edited

Change = Callable[[Artifact], Any]


class _Any(Enum):
    ANY = "any"


#: In the place of a layer: no part of the model is to blame.
ANY = _Any.ANY
Layer = int | None | _Any
PARITY, ARTIFACT = 3, 7


@dataclass(frozen=True)
class Fault:
    """A change to a good artifact.

    Attributes:
        id: A name of its own.
        base: The artifact; see `planted.artifacts`.
        plant: Makes the change.
        kind: "numeric": the ONNX file and the model compute different things; "file": files, or what describes them,
            are damaged or contradict each other.
        codes: The exit codes that are right.
        recorded: Whether the manifest has the sizes and hashes of the files as they are now.
        layer: The layer that a bisection must name, None for the embedding, the last norm and the LM head.
        options: Further arguments of the command; {dense} stands for the dense model.
    """

    id: str
    base: str
    plant: Change
    kind: Literal["numeric", "file"]
    codes: frozenset[int]
    recorded: bool = True
    layer: Layer = ANY
    options: tuple[str, ...] = ()

    @property
    def is_bisected(self) -> bool:
        return self.layer is not ANY


def numeric(id: str, base: str, edit: Edit, layer: Layer, **more: Any) -> Fault:
    """A fault in the ONNX file."""
    return Fault(id, base, recorded(edited(edit)), "numeric", frozenset({PARITY}), layer=layer, **more)


def structural(id: str, base: str, edit: Edit) -> Fault:
    """A fault in the ONNX file that results do not tell, as rounding explains it: the graph itself is another."""
    return quiet(id, base, edited(edit))


def quiet(
    id: str, base: str, change: Change, codes: Collection[int] = (ARTIFACT,), layer: Layer = ANY, **more: Any
) -> Fault:
    """A change of files that the manifest agrees with: hashes give nothing away."""
    kind: Literal["numeric", "file"] = "file" if layer is ANY else "numeric"
    return Fault(id, base, recorded(change), kind, frozenset(codes), layer=layer, **more)


def damage(id: str, base: str, change: Change, **more: Any) -> Fault:
    """A change that the manifest knows nothing of, or of the manifest itself."""
    return Fault(id, base, change, "file", frozenset({ARTIFACT}), recorded=False, **more)


def recorded(change: Change) -> Change:
    """The change, and a manifest that agrees with it."""

    def plant(artifact: Artifact) -> None:
        change(artifact)
        re_record(artifact)

    return plant
