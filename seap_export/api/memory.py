"""Warns if a model needs more memory than its user allows."""

from __future__ import annotations

from seap_export.model.layers.compute import Compute
from seap_export.model.layers.working_memory import working_bytes
from seap_export.model.sources.source import Source
from seap_export.pipeline.progress import Progress
from validation.reports.numbers import megabytes


def warn_of_memory(progress: Progress, source: Source, compute: Compute) -> None:
    """Warns if a single layer, which is always in memory, needs more than the limit."""
    needed = working_bytes(source.spec, compute.batch_tokens)
    if needed > compute.memory:
        progress.warn(
            f"a layer of this model needs about {megabytes(needed)}, more than --memory or the free memory allows "
            f"({megabytes(compute.memory)}); it is computed in memory all the same"
        )
