"""The cost of each kind of step in time, disk and memory, as one record beside the kind's class.

Time is what a step does, which follows from the model's shapes, the tokens and the ratio, over rates that a short
measurement finds on this machine. `effort`, `per_layer` and `always` hold what lies between this plain count and the
time that exports really took; docs/contributing/scale.md compares the two. Memory is one layer and what is computed
from it, whatever the number of layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch

from converters.format import Format
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts, Workload
from validation.runtimes.table import REFERENCE, runtime_row

_SIZE, _READ, _REPEATS = 1024, 2**26, 5
#: How many times as long as in float32 it takes to write quantised weights, whose scales are searched, or to compare
#: them, where torch rounds activations as well.
_QUANTIZED = 2.0
#: What Python, torch, transformers and ONNX Runtime take before any work, and what CUDA takes on the host and the GPU.
_BASE, _CUDA_HOST, _CUDA = 650_000_000, 1_500_000_000, 600_000_000


@dataclass(frozen=True)
class Rates:
    """Rates of a machine, per second.

    Attributes:
        operations: Multiply-adds of float32 matrices.
        double_operations: Multiply-adds of float64 matrices.
        memory_bytes: Bytes of memory read.
    """

    operations: float
    double_operations: float
    memory_bytes: float


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk.

    Attributes:
        kept: Bytes that stay in the output folder.
        unfinished: Peak bytes in the output folder that exist only while a step runs.
        temporary: Peak bytes in the temporary folder while a step runs.
    """

    kept: int = 0
    unfinished: int = 0
    temporary: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of the host's memory, and of the GPU's if there is one."""

    host: int
    device: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of a kind of step, by formulas of the kept part of the model and the tokens of its texts.

    Attributes:
        label: The kind in words; empty: the name of the format that is written.
        count_seconds: Seconds at the machine's rates.
        effort: Measured seconds divided by those of `count_seconds`.
        per_layer: Further seconds for each layer, whatever its size.
        always: Further seconds for the step.
        format_factor: How many times as long a format takes as float32 in ONNX Runtime.
        count_disk: Bytes on the disk.
        count_memory: Bytes of memory where hidden states are kept in memory; on disk they take none. None: not known.
        on_device: Whether a GPU does the work, if there is one.
    """

    label: str
    count_seconds: Callable[[KeptPart, TokenCounts, Rates], float]
    effort: float
    per_layer: float = 0.0
    always: float = 0.0
    format_factor: Callable[[Format], float] = lambda format: 1.0
    count_disk: Callable[[KeptPart, TokenCounts], Disk] = lambda model, tokens: Disk()
    count_memory: Callable[[KeptPart, TokenCounts], float] | None = None
    on_device: bool = False
    reads: float = 0.0

    def seconds(self, tokens: TokenCounts, ratio: float, work: Workload, rates: Rates) -> float:
        """About how many seconds a step takes.

        Args:
            ratio: Fraction of the attention and MLP weights that the variant loses; 0 for the dense model's part.
        """
        counted = self.count_seconds(KeptPart(work, 1.0 - ratio), tokens, rates)
        factor = self.effort * self.format_factor(work.format)
        return factor * counted + self.per_layer * len(work.spec.layers) + self.always

    def disk(self, tokens: TokenCounts, ratio: float, work: Workload) -> Disk:
        """About how many bytes a step takes on the disk; arguments as for `seconds`."""
        return self.count_disk(KeptPart(work, 1.0 - ratio), tokens)

    def memory(self, tokens: TokenCounts, ratio: float, work: Workload, *, on_gpu: bool = False) -> Memory | None:
        """About how much memory a step needs, if layers are computed on a GPU or not; None: not known."""
        if self.count_memory is None:
            return None
        model = KeptPart(work, 1.0 - ratio)
        needed = round(self.count_memory(model, tokens))
        if not (on_gpu and self.on_device):
            return Memory(_BASE + needed + (_CUDA_HOST if on_gpu else 0))
        return Memory(_BASE + _CUDA_HOST + 4 * model.layer_weights, _CUDA + needed)


def total_disk(steps: Iterable[Disk]) -> Disk:
    """The disk space of steps made one after the other: the sum of what stays, and the peak of the rest."""
    disks = tuple(steps)
    return Disk(
        sum(disk.kept for disk in disks),
        max((disk.unfinished for disk in disks), default=0),
        max((disk.temporary for disk in disks), default=0),
    )


def quantization_factor(format: Format) -> float:
    """How many times as long a format's precision takes as float32."""
    return 1.0 if format.arithmetic.quantization is None else _QUANTIZED


def prompt_factor(format: Format) -> float:
    """How many times as long as in ONNX Runtime prompts take in the runtime that a format is measured in."""
    runtime = format.runtimes[0]
    return 1.0 if runtime == REFERENCE else runtime_row(runtime).prompt_factor


def measure_rates() -> Rates:
    """The rates of this machine with torch's number of threads, measured once in a process.

    It is the best of a few tries, since other work only slows it.
    """
    return _rates(torch.get_num_threads())


@cache
def _rates(threads: int) -> Rates:
    single, double = (torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.float64))
    numbers = torch.ones(_READ // 4)
    return Rates(
        operations=_SIZE**3 / _best(lambda: single @ single),
        double_operations=_SIZE**3 / _best(lambda: double @ double),
        memory_bytes=_READ / _best(lambda: numbers.sum()),
    )


def _best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
