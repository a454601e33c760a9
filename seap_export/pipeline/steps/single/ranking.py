"""The step that ranks channels for a task or mixture: the options of each layer with their losses, for any ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.pipeline.cost.cost import Cost, Disk, Rates
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.mixtures import MixtureSpec
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.fresh import FreshStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.make import rank_layers
from seap_export.pruning.plan.settings import PlanSettings

#: Increased when the same inputs give different bytes than before.
_VERSION = 1
#: What the choice of heads takes, in cubes of their channels: if there are few, all sets of them are tried.
_FEW_HEADS, _ALL_SETS, _GREEDY = 12, 17.0, 3.5


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    """Single channels are eliminated in float32: an inverse, updates, a factorisation. Heads are chosen in float64."""
    if not model.work.plan.eliminates:
        return model.squares / rates.double_operations
    spec, single, heads = model.work.spec, 0.0, 0.0
    for sublayer in spec.sublayers:
        channels, unit, blocks = sublayer.channels // sublayer.blocks, sublayer.unit, sublayer.blocks
        if unit == 1 or blocks > 1:
            single += blocks * (0.85 * channels**3 + spec.hidden_size * channels**2)
        else:
            heads += (_ALL_SETS if channels // unit <= _FEW_HEADS else _GREEDY) * channels**3
    return single / rates.operations + heads / rates.double_operations


def _memory(model: KeptPart, tokens: TokenCounts) -> float:
    """The covariance in float64, packed and whole, its float32 copy, and the weights in both.

    Of experts, the weights of all as they are stored besides, and two more copies of one's in float64.
    """
    widest, spec = model.widest, model.work.spec
    channels = max((sublayer.channels for sublayer in spec.sublayers if sublayer.blocks > 1), default=0)
    of_experts = model.work.stored.itemsize * channels + (16 * widest if channels else 0)
    return (8 + 2 + 4) * widest**2 + (12 * widest + of_experts) * spec.hidden_size


@dataclass(frozen=True)
class RankingStep(PathStep):
    """Ranks the channels of every sublayer."""

    cost = Cost(
        "ranking",
        _seconds,
        effort=1.8,
        per_layer=0.25,
        count_disk=lambda model, tokens: Disk(16 * model.single_channels),  # their order and losses, in 8 bytes each
        count_memory=_memory,
        on_device=True,
        reads=0.3,  # output projections, a quarter of a Llama's layers or so
    )
    resumes = True

    mixture: MixtureSpec
    settings: PlanSettings
    calibrations: tuple[CalibrationStep, ...]

    @property
    def name(self) -> str:
        return f"ranking/{self.mixture.name}"

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return self.calibrations

    @property
    def label(self) -> str:
        return f"ranking {self.mixture.name}"

    @property
    def units(self) -> int:
        return self.calibrations[0].layers

    @property
    def fresh(self) -> tuple[FreshStep, ...]:
        """The fresh texts that variants are refitted on, of each task that has fewer tokens than the settings want."""
        lacking = ((step, self.settings.fresh - (step.split.num_tokens or 0)) for step in self.calibrations)
        return tuple(FreshStep(step, number) for step, number in lacking if number > 0)

    @property
    def num_tokens(self) -> int:
        """The number of calibration tokens of all tasks together."""
        return sum(step.split.num_tokens or 0 for step in self.calibrations)

    def _inputs(self) -> dict[str, Any]:
        settings = self.settings
        return {
            **{step.name: step.key for step in self.calibrations},
            "weight": dict(self.mixture.weights),
            **{name: getattr(settings, name) for name in ("score", "ridge", "mix")},
            "sparsity": settings.square_heads,
            RELEASE: _VERSION,
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes each layer's options, and warns of experts with few calibration tokens."""
        statistics = self.statistics(work)
        rank_layers(work.source, statistics, self.settings, path, advance, compute=work.compute)
        scarce, every = statistics.scarce_experts(work.source.spec)
        if scarce and self.settings.compensation == "sequential":
            work.progress.warn(
                f"{self.mixture.name}: {scarce} of {every} experts get fewer calibration tokens than they have "
                "neurons, and change little in the refit; calibrate on more tokens"
            )

    def statistics(self, work: StepContext) -> TaskMixture:
        """Opens the statistics of the mixture's tasks, with their weights."""
        opened = {step.task: Calibration(work.of_task(step)) for step in self.calibrations}
        return TaskMixture(self.mixture.name, self.mixture.weights, opened)
