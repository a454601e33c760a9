"""`Kept`, the base class of the plans of all kinds of sublayers: the units that are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeVar

import torch

from seap_export.model.families import Sublayer
from seap_export.model.families.names import Projection

S = TypeVar("S", bound=Sublayer)


@dataclass(frozen=True)
class Kept(ABC):
    """The plan of a sublayer; the fields are its keys in plan.json.

    Attributes:
        units: The indices of the kept units of channels, sorted.
    """

    #: The kind of sublayer, and what it is called in figures.
    kind: ClassVar[type[Sublayer]]
    name: ClassVar[str]
    #: The name of its units, and the title and the axis of a figure of them.
    unit: ClassVar[str]
    panel: ClassVar[tuple[str, str]]
    #: By the keys of config.json that give its sizes: the heading of a column of them, and their name elsewhere.
    size_words: ClassVar[Mapping[str, tuple[str, str]]]

    units: tuple[int, ...]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Reads a plan from a layer of plan.json; raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(**{field.name: _frozen(row[field.name]) for field in fields(cls)})

    @property
    def group(self) -> int:
        """Number of units that share something, which goes when the last of them goes."""
        return 1

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """The sizes that are left, by the keys of config.json."""

    def fits(self, dense: Any) -> bool:
        """Whether the dense sublayer has these units, and keeps all of them if it must."""
        number = dense.channels // dense.unit
        return self.units[-1] < number and (dense.whole_because is None or len(self.units) == number)

    def spec(self, dense: S) -> S:
        """The shrunk sublayer, given the dense one."""
        sizes: dict[str, Any] = {**self.sizes}
        return replace(dense, **sizes)

    def channels(self, dense: Any) -> torch.Tensor:
        """The kept input channels of the output projection, int64."""
        return spread(self.units, dense.unit)

    def rows(self, dense: Any, name: Projection | str) -> torch.Tensor:
        """The kept rows of a projection that reads the stream, or of one of `inner_tensors`, int64."""
        return self.channels(dense)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def spread(units: tuple[int, ...], width: int) -> torch.Tensor:
    """The channels of some units, `width` consecutive ones each, int64."""
    return (torch.tensor(units).unsqueeze(1) * width + torch.arange(width)).flatten()


def sorted_indices(**lists: tuple[int, ...]) -> None:
    """Raises `ValueError` unless each is a sorted list of distinct indices, not empty."""
    for name, indices in lists.items():
        if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0:
            raise ValueError(f"{name} must be a sorted list of distinct indices, not empty")
