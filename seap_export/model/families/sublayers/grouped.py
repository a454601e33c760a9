"""The base class of sublayers whose channels belong to heads, groups of which share something, such as keys."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from seap_export.model.families.sublayers.sublayer import Sublayer


@dataclass(frozen=True, kw_only=True)
class Grouped(Sublayer):
    """Heads of `unit` channels each. Its `size_keys` are those of the numbers of heads and of groups."""

    @property
    @abstractmethod
    def heads_per_group(self) -> int:
        """Number of heads in a group."""

    @property
    def keeps_groups(self) -> bool:
        """Whether a group loses all its heads or none."""
        return False

    @property
    def fixed_groups(self) -> bool:
        """Whether all groups stay, with as many heads in each."""
        return False

    @property
    def heads(self) -> int:
        return self.channels // self.unit
