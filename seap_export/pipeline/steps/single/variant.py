"""The first steps of a variant: its plan and its model folder. The module `formats` has those of the other formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.cost.cost import Cost, Disk, Rates
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import PLAN, variant_name
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.single.fresh import FreshStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.allocation.texts import FITTED_TOKENS, JUDGED_TOKENS
from seap_export.pruning.distillation.texts import STEP_TOKENS
from seap_export.pruning.distillation.write import variant_units, write_variant
from seap_export.pruning.plan.plan import PLAN_SCHEMA, read_plan, write_plan
from seap_export.pruning.plan.ranked import read_ranking
from seap_export.pruning.shrink.sequential import storage_for_both
from seap_export.pruning.shrink.write import MODELING_FILES

#: Increased when the same inputs give different bytes than before.
_PLAN, _HF = 3, 6
#: Bytes of plan.json for each single channel that is kept.
_CHANNEL = 5
#: Bytes that are read and written of each weight when it is trained.
_ADAM = 64


def _plan_seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    """The dense model once; then each trial runs and refits the shrunk one, and compares both on some tokens."""
    if model.is_whole or not model.work.plan.tried:
        return 0.0
    tried = min(tokens.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS)
    judged = tried * JUDGED_TOKENS / (FITTED_TOKENS + JUDGED_TOKENS)
    trial = tried * (model.active + model.squares / 2 + model.outputs) + 2 * judged * model.head
    operations = tried * model.dense_linear + model.work.plan.tried * trial
    return operations / rates.operations + model.work.plan.tried * model.refit_systems / rates.double_operations


def _plan_disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """While plans are tried, what each sublayer of the dense model wrote for some texts."""
    kept = round(_CHANNEL * model.kept * model.single_channels)
    if model.is_whole or not model.work.plan.tried:
        return Disk(kept)
    tried = TokenCounts(min(tokens.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS), 0)
    return Disk(kept, unfinished=2 * len(model.work.spec.layers) * model.hidden_bytes(tried))


@dataclass(frozen=True)
class PlanStep(PathStep):
    """Decides what a variant keeps.

    Attributes:
        ratio: Fraction to remove.
        vocabulary: The tokens that are kept; None: all.
    """

    cost = Cost("plan", _plan_seconds, effort=1.4, count_disk=_plan_disk)  # roughly, from two runs
    is_folder = False
    unit = "trials"
    resumes = True

    ranking: RankingStep
    ratio: float
    vocabulary: Vocabulary | None = None

    @property
    def variant(self) -> str:
        return variant_name(self.ranking.mixture.name, self.ratio)

    @property
    def name(self) -> str:
        return f"{self.variant}/{PLAN}"

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.ranking,)

    @property
    def planned_work(self) -> PlannedWork:
        return PlannedWork(self.cost, self.tasks, self.ratio, vocabulary=self.vocabulary)

    @property
    def label(self) -> str:
        return f"{self.variant}: planning"

    @property
    def units(self) -> int | None:
        return self.ranking.settings.tried or None

    def _inputs(self) -> dict[str, Any]:
        settings, layers = self.ranking.settings, self.ranking.units
        # The default protection gives the same key as the equal explicit one.
        values = asdict(settings) | {"sparsity": asdict(settings.sparsity.resolved(layers))}
        del values["calibration_tokens"]
        if not settings.tried:
            del values["trials"]
        if not settings.fresh:
            del values["fresh_tokens"]
        return {
            self.ranking.name: self.ranking.key,
            "ratio": self.ratio,
            "vocabulary": None if self.vocabulary is None else self.vocabulary.to_json(),
            **values,
            RELEASE: [PLAN_SCHEMA, _PLAN],
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        statistics = self.ranking.statistics(work)
        ranking = read_ranking(work.source.spec, work.of_task(self.ranking))
        plan = choose_plan(
            work.source,
            statistics,
            ranking,
            self.ranking.settings,
            self.ratio,
            path.parent,
            advance,
            vocabulary=self.vocabulary,
            compute=work.compute,
            say=lambda line: work.progress.say(f"{self.variant}: {line}"),
        )
        write_plan(plan, path)


@dataclass(frozen=True)
class OfVariant(PathStep):
    """A step of a variant after its plan."""

    before: PlanStep | OfVariant

    @cached_property
    def plan(self) -> PlanStep:
        """The step that made the variant's plan."""
        return self.before if isinstance(self.before, PlanStep) else self.before.plan

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.before,)

    @property
    def variant(self) -> str:
        """The name of the variant that the step belongs to."""
        return self.before.variant

    @property
    def planned_work(self) -> PlannedWork:
        return replace(self.plan.planned_work, cost=self.cost)


def _learnt(model: KeptPart, tokens: TokenCounts) -> TokenCounts:
    """The token counts for refit and distillation: with the fresh texts, if these make them more."""
    with_fresh = tokens.tasks * model.work.plan.fresh
    return replace(tokens, calibration_tokens=max(tokens.calibration_tokens, with_fresh))


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    if not model.is_refitted:
        return 4 * model.linear / rates.memory_bytes
    learnt = _learnt(model, tokens)
    both = learnt.calibration_tokens * (model.active + model.dense_active + model.squares / 2 + model.outputs)
    refit = both / rates.operations + model.refit_systems / rates.double_operations
    return refit + _distillation_seconds(model, learnt, rates)


def _distillation_seconds(model: KeptPart, learnt: TokenCounts, rates: Rates) -> float:
    """Forwards, forwards again and backwards through the layers, two heads and back through one, and Adam."""
    trained = model.work.plan.passes_over(learnt.calibration_tokens) * learnt.calibration_tokens
    walked = trained * (4 * model.active + 3 * model.head)
    changed = trained / STEP_TOKENS * _ADAM * model.linear
    return walked / rates.operations + changed / rates.memory_bytes


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """While it is refitted, two streams, each as it was before the layer and as it becomes.

    While it is distilled, one of these, the refitted model, weights and two running means in float32, as they were
    before the training step and as they become, and the streams of its texts before each layer.
    """
    work, kept, learnt = model.work, model.folder_bytes(model.work.hf), _learnt(model, tokens)
    streams = 4 * model.hidden_bytes(learnt) if model.is_refitted else 0
    if not (model.is_refitted and work.plan.passes_over(learnt.calibration_tokens)):
        return Disk(kept, unfinished=streams)
    training = round(24 * model.linear) + 4 * STEP_TOKENS * work.spec.width * len(work.spec.layers)
    return Disk(kept, unfinished=kept + max(streams, streams // 2 + training))


def _memory(model: KeptPart, tokens: TokenCounts) -> float:
    """Two streams, and the inputs of the projection that is fitted; then distillation."""
    if not model.is_refitted:
        return 8 * model.layer_weights
    learnt = _learnt(model, tokens)
    inputs = 4 * learnt.calibration_tokens * model.kept * model.widest
    refit = model.working_bytes + 2 * model.hidden_bytes(learnt) + inputs
    return (
        max(refit, _distillation_memory(model, learnt))
        if model.work.plan.passes_over(learnt.calibration_tokens)
        else refit
    )


def _distillation_memory(model: KeptPart, learnt: TokenCounts) -> float:
    """The dense stream, those of a training step, and a layer with its gradients and running means.

    The other layers wait in files; if they fit in memory, they are there.
    """
    step = 4 * 4 * STEP_TOKENS * model.work.spec.width
    return model.working_bytes + model.hidden_bytes(learnt) + step + 16 * model.kept * model.layer_weights


@dataclass(frozen=True)
class ShrinkStep(OfVariant):
    """Shrinks, refits and distils the layers, and writes them as a model that transformers loads."""

    cost = Cost(
        "shrinking",
        _seconds,
        effort=1.2,
        per_layer=0.15,
        count_disk=_disk,
        count_memory=_memory,
        on_device=True,
        reads=1.0,
    )
    unit = "parts"
    resumes = True

    @property
    def name(self) -> str:
        return f"{self.variant}/hf"

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.before, *self.fresh)

    @property
    def fresh(self) -> tuple[FreshStep, ...]:
        """The steps of the fresh texts that the model is refitted on, one for each task that has some."""
        return self.plan.ranking.fresh if self.plan.ratio else ()

    @property
    def label(self) -> str:
        return f"{self.variant}: shrinking"

    @property
    def units(self) -> int:
        ranking = self.plan.ranking
        return variant_units(ranking.units, ranking.settings.passes_over(ranking.num_tokens), self.plan.ratio)

    def _inputs(self) -> dict[str, Any]:
        # The modelling code is part of the model.
        code = [(resources.files("seap_export.model.modeling") / name).read_text("utf-8") for name in MODELING_FILES]
        return {**{step.name: step.key for step in self.needs}, RELEASE: [_HF, code]}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        plan = read_plan(work.folder / self.plan.name)
        fresh = {step.calibration.task: step.token_ids(work) for step in self.fresh}
        statistics = self.plan.ranking.statistics(work).with_fresh(fresh)
        if plan.settings.compensation == "sequential":
            storage = storage_for_both(work.source, statistics, path, work.compute)
            work.progress.say(f"{self.variant}: {storage.description}")
        write_variant(work.source, plan, statistics, path, advance, compute=work.compute)
