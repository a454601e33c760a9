"""The device, the memory and the cluster that options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seap_export.errors import refuse_threads
from seap_export.model.layers.compute import Compute, choose_compute
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.request.options import BatchOptions, ComputeOptions

if TYPE_CHECKING:
    from seap_export.api.export import ExportOptions


def compute_of(options: ComputeOptions) -> Compute:
    """The device that torch computes on, and the limits of memory and batch size.

    Raises:
        UsageError: The device, the size or the number of threads is not a valid one.
        EnvironmentFailure: torch cannot use the GPU.
    """
    refuse_threads(options.threads)
    if isinstance(options, BatchOptions):
        return choose_compute(options.device, options.memory, options.batch_tokens)
    return choose_compute(options.device, options.memory)


def cluster_of(options: ExportOptions) -> tuple[Compute, Cluster | None]:
    """The device of this machine, and the cluster that makes the steps; None without an address.

    Workers choose their device by themselves; this machine computes nothing but what is measured.

    Raises:
        UsageError: The address, the device or the size is not a valid one.
        EnvironmentFailure: Ray is not installed, or torch cannot use the GPU.
    """
    if options.cluster is None:
        return compute_of(options), None
    memory, threads, provider = options.memory, options.threads, options.provider
    cluster = Cluster(options.cluster, options.model, options.device, memory, threads, provider)
    return choose_compute("cpu", memory, options.batch_tokens), cluster
