"""Warns if a model needs more memory than its user allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seap_export.cli.console import Console, megabytes

if TYPE_CHECKING:
    from seap_export.layers.compute import Compute
    from seap_export.sources.source import Source

__all__ = ["warn_of_memory"]


def warn_of_memory(console: Console, source: Source, compute: Compute) -> None:
    """Warns if a single layer, which is always in memory, needs more than the limit."""
    from seap_export.layers.working_memory import working_bytes

    needed = working_bytes(source.spec, compute.batch_tokens)
    if needed > compute.memory:
        console.warn(
            f"a layer of this model needs about {megabytes(needed)}, more than --memory or the free memory allows "
            f"({megabytes(compute.memory)}); it is computed in memory all the same"
        )
