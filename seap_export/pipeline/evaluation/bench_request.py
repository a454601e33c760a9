"""The settings of a speed measurement: prompt lengths, batch sizes, engines and formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from converters.form_options import FormOptions
from converters.format import Format
from converters.formats import FORMATS, format_class
from seap_export.common.providers import OWN_RUNTIME, WrittenFor
from seap_export.errors import UsageError, refuse_less
from seap_export.model.families import ModelSpec
from seap_export.pipeline.folder.names import HF
from seap_export.runtime.session import check_session_options
from validation.execution import Execution
from validation.runtimes.table import REFERENCE
from validation.speed.engines import EngineName
from validation.speed.measure import SpeedCell

DEPTHS = (128, 512, 2048)


@dataclass(frozen=True)
class BenchRequest:
    """The settings of a speed measurement of variants and their dense model.

    Attributes:
        depths: Prompt lengths; none: `bench` takes those of `DEPTHS` that the model's context holds.
        batches: Batch sizes; those above 1 are timed only at the smallest depth, and where the engine takes them.
        engines: Engines that run the models.
        formats: Formats that the engines run; those that take none of them get the first format that they take, in its
            usual form. `bench` adds those of the variants that were written for the provider.
        provider: ONNX Runtime's execution provider.
        threads: Threads of each engine; None: all cores available to this process.
        runs: Runs of each model in each cell, without the warm-up.
        steps: Decode steps of a run.
        memory: Whether the peak memory of each model is measured too, in a process of its own.
    """

    depths: tuple[int, ...] = ()
    batches: tuple[int, ...] = (1, 4, 16)
    engines: tuple[EngineName, ...] = (REFERENCE, OWN_RUNTIME)
    formats: tuple[Format, ...] = ()
    provider: str = "cpu"
    threads: int | None = None
    runs: int = 5
    steps: int = 16
    memory: bool = True

    @property
    def execution(self) -> Execution:
        """The execution provider and threads that engines run with."""
        return Execution(self.provider, self.threads)

    def __post_init__(self) -> None:
        check_session_options(self.provider, self.threads)
        depth, batch = min(self.depths, default=None), min(self.batches, default=None)
        refuse_less(1, depth=depth, batch=batch, runs=self.runs, steps=self.steps)

    def written(self, engine: EngineName) -> Format | None:
        """The format that an engine runs; None: the model folder itself.

        Raises:
            UsageError: No format has this runtime.
        """
        for format in self.formats:
            if engine in format.runtimes:
                return format
        kind = next((kind for kind in map(format_class, FORMATS) if engine in kind.runtimes), None)
        if kind is None:
            raise UsageError(f"no format is run by '{engine}'; use another --runtime")
        return (
            None if kind.name == HF else kind.of_options(None, FormOptions(provider=cast(WrittenFor, self.provider)))
        )

    @property
    def cells(self) -> tuple[SpeedCell, ...]:
        """Every depth with one prompt, then every other batch size at the smallest depth."""
        single = [SpeedCell(1, depth) for depth in sorted(set(self.depths))]
        return tuple(
            dict.fromkeys([*single, *(SpeedCell(batch, min(self.depths)) for batch in sorted(set(self.batches)))])
        )


def default_depths(spec: ModelSpec, steps: int) -> tuple[int, ...]:
    """The prompt lengths of `DEPTHS` that leave room for so many decode steps, or the longest that does."""
    room = spec.max_position_embeddings - steps
    return tuple(depth for depth in DEPTHS if depth <= room) or (max(1, room),)


def refuse_long_prompts(spec: ModelSpec, request: BenchRequest) -> None:
    """Checks that prompts and decode steps fit into the model's context."""
    longest = max(request.depths) + request.steps
    if longest > spec.max_position_embeddings:
        raise UsageError(
            f"{max(request.depths)} tokens and {request.steps} steps exceed the model's context of "
            f"{spec.max_position_embeddings}; give a smaller --depth"
        )
