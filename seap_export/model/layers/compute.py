"""Decides where the layers of a model are computed, and how much memory that may take; nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from seap_export.common.memory import available_memory
from seap_export.errors import EnvironmentFailure, UsageError, refuse_less
from seap_export.runtime.driver import read_driver

#: The memory that stays free for the rest of the machine, as a fraction of what is free now.
_MARGIN = 0.1
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
#: The least number that can mean bytes without a unit.
_FEWEST_BYTES = 10**6
_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Compute:
    """A device and the limits of the work on it.

    Attributes:
        device: Where layers, batches, covariances and factorisations are.
        memory: Bytes of the host's memory that hidden states and weights may take.
        device_memory: Bytes of a GPU's memory that they may take; 0 on the CPU.
        batch_tokens: Positions in a batch, padding included.
    """

    device: torch.device = torch.device("cpu")
    memory: int = 2**62
    device_memory: int = 0
    batch_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.memory < 1 or self.device_memory < 0 or self.batch_tokens < 1:
            raise ValueError("memory and batch_tokens must be positive")

    @property
    def is_cpu(self) -> bool:
        """Whether the device is the host itself."""
        return self.device.type == "cpu"


def choose_compute(device: str = "auto", memory: str | None = None, batch_tokens: int = 1024) -> Compute:
    """The device of a name, and its limits.

    Args:
        device: `auto` (the first GPU if torch can use one, else the CPU), `cpu`, `cuda` or `cuda:N`.
        memory: Such as `8GiB`; None: what is free now, less a margin.

    Raises:
        UsageError: The device or a size is not a valid one.
        EnvironmentFailure: torch cannot use the GPU.
    """
    refuse_less(1, batch_tokens=batch_tokens)
    limit = parse_bytes(memory) if memory is not None else int(available_memory() * (1 - _MARGIN))
    chosen = _device(device)
    free = 0 if chosen.type == "cpu" else int(torch.cuda.mem_get_info(chosen)[0] * (1 - _MARGIN))
    return Compute(chosen, limit, free, batch_tokens)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Lets torch use this many threads within the block; None: as many as before. Results depend on it by rounding.

    Raises:
        UsageError: The number is not positive.
    """
    refuse_less(1, threads=number)
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parse_bytes(size: str) -> int:
    """The bytes of a size such as `8GiB`, `500MB` or `1000000`; raises `UsageError`, also if a unit is missing."""
    match = _SIZE.fullmatch(size.strip())
    if match is None or match[2].lower() not in _UNITS or float(match[1]) <= 0:
        raise UsageError(f"'{size:.40}' is not a size; give one such as 8GiB or 500MB")
    if not match[2] and float(match[1]) < _FEWEST_BYTES:
        raise UsageError(f"'{size}' has no unit; write {match[1]}MB or {match[1]}GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _device(name: str) -> torch.device:
    number = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if number is None:
        raise UsageError(f"'{name}' is not a device; give auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        driver = read_driver()
        if not driver.gpus:
            raise EnvironmentFailure(f"--device {name}: no NVIDIA GPU, since {driver.reason}; use --device cpu")
        raise EnvironmentFailure(
            f"--device {name}: torch {torch.__version__} finds no CUDA GPU; use --device cpu, or install a "
            "torch built for CUDA and check the driver with 'nvidia-smi'"
        )
    index, count = int(number[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise EnvironmentFailure(f"--device {name}: there are {count} GPUs; give cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)
