"""The settings of parity and of the router, checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass

from seap_export.common.options import options, values_of
from seap_export.errors import UsageError, refuse_less
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.request.options import ComparisonOptions, ParityOptions
from validation.execution import Execution
from validation.parity.profiles import Limits, read_limits


@options
class ParitySettings(ParityOptions):
    """How a written folder is compared with the model it was written from.

    Attributes:
        provider: Execution provider of ONNX Runtime, `cpu` or `cuda`.
        threads: Threads of torch and of the runtime; None: all cores.
    """

    provider: str = "cpu"
    limits: Limits = Limits()
    threads: int | None = None

    def execution(self, compute: Compute | None) -> Execution:
        """The provider, threads and torch device that both sides of a comparison run with."""
        return Execution(self.provider, self.threads, compute)


def parity_settings(options: ComparisonOptions, provider: str, threads: int | None) -> ParitySettings:
    """The settings of parity: sizes, limits, provider and threads.

    Raises:
        UsageError: The file of limits cannot be used.
    """
    limits = Limits() if options.limits is None else read_limits(options.limits)
    return ParitySettings(**values_of(ParityOptions, options), provider=provider, limits=limits, threads=threads)


def refuse_below(settings: object, **least: int) -> None:
    """Raises `UsageError` if a setting is below its least value, as if it were an option."""
    for name, number in least.items():
        refuse_less(number, **{name: getattr(settings, name)})


@dataclass(frozen=True)
class RouterSettings:
    """How a router is made.

    Attributes:
        seed: Seed of the split into calibration and held-out texts.
        max_length: Longer prompts are truncated to this many tokens.
        threshold: Predictions with a lower probability are uncertain.
    """

    seed: int = 0
    max_length: int = 512
    threshold: float = 0.7

    def __post_init__(self) -> None:
        refuse_below(self, max_length=1)
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold:g} is out of range; give 0 to 1")
