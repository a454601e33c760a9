"""The first steps of a variant: its plan, and the model folder. `written` has those of the other formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from seap_export.allocation.planning import choose_plan
from seap_export.distillation.write import variant_units, write_variant
from seap_export.hashing import sha256_json
from seap_export.pipeline.folder.names import PLAN, variant_name
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.ranking import RankingStep
from seap_export.pipeline.steps.step import Step, Work
from seap_export.plan.plan import PLAN_SCHEMA, read_plan, write_plan
from seap_export.plan.ranked import read_ranking
from seap_export.shrink.sequential import storage_for
from seap_export.shrink.write import MODELING_FILES
from seap_export.vocabulary.table import Vocabulary

__all__ = ["OfVariant", "PlanStep", "ShrinkStep"]

#: Increased when the same inputs give different bytes than before.
_PLAN, _HF = 1, 3


@dataclass(frozen=True)
class PlanStep(Step):
    """Decides what a variant keeps.

    Attributes:
        ranking: The ranking of its task or mixture.
        ratio: Fraction to remove.
        vocabulary: The tokens that are kept; None: all.
    """

    kind = "plan"
    is_folder = False
    unit = "trials"
    resumes = True

    ranking: RankingStep
    ratio: float
    vocabulary: Vocabulary | None = None

    @property
    def variant(self) -> str:
        """The variant's name."""
        return variant_name(self.ranking.mixture.name, self.ratio)

    @property
    def name(self) -> str:
        return f"{self.variant}/{PLAN}"

    @property
    def needs(self) -> tuple[Step, ...]:
        return (self.ranking,)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.ranking.tasks

    @property
    def label(self) -> str:
        return f"{self.variant}: planning"

    @property
    def units(self) -> int | None:
        return self.ranking.settings.tried or None

    def _key(self) -> str:
        settings, layers = self.ranking.settings, self.ranking.units
        # The default protection gives the same key as the equal explicit one.
        values = asdict(settings) | {"sparsity": asdict(settings.sparsity.resolved(layers))}
        if not settings.tried:
            del values["trials"]
        parts = [PLAN_SCHEMA, _PLAN, self.ranking.key, self.ranking.mixture.name, values, self.ratio]
        return sha256_json(parts if self.vocabulary is None else [*parts, self.vocabulary.to_json()])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes plan.json."""
        statistics = self.ranking.statistics(work)
        ranking = read_ranking(work.source.spec, work.of_task(self.ranking))
        plan = choose_plan(
            work.source,
            statistics,
            ranking,
            self.ranking.settings,
            self.ratio,
            place.parent,
            advance,
            vocabulary=self.vocabulary,
            compute=work.compute,
            say=lambda line: work.progress.say(f"{self.variant}: {line}"),
        )
        write_plan(plan, place)


@dataclass(frozen=True)
class OfVariant(Step):
    """A step after the plan.

    Attributes:
        before: The step that it is made from.
    """

    before: PlanStep | OfVariant

    @cached_property
    def plan(self) -> PlanStep:
        """The variant's plan."""
        return self.before if isinstance(self.before, PlanStep) else self.before.plan

    @property
    def needs(self) -> tuple[Step, ...]:
        return (self.before,)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.before.tasks

    @property
    def variant(self) -> str:
        """The variant's name."""
        return self.before.variant

    @property
    def ratio(self) -> float:
        """The fraction that the variant loses."""
        return self.plan.ratio


@dataclass(frozen=True)
class ShrinkStep(OfVariant):
    """Shrinks, refits and distils the layers, and writes them as a model that transformers loads."""

    kind = "shrinking"
    unit = "parts"
    resumes = True

    @property
    def name(self) -> str:
        return f"{self.variant}/hf"

    @property
    def label(self) -> str:
        return f"{self.variant}: shrinking"

    @property
    def units(self) -> int:
        ranking = self.plan.ranking
        return variant_units(ranking.units, ranking.settings.passes, self.ratio)

    def _key(self) -> str:
        """The modelling code is part of the model."""
        code = [(resources.files("seap_export.modeling") / name).read_text("utf-8") for name in MODELING_FILES]
        return sha256_json(["hf", _HF, self.before.key, code])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes the folder."""
        plan, statistics = read_plan(work.folder / self.plan.name), self.plan.ranking.statistics(work)
        if plan.compensation == "sequential":
            storage = storage_for(work.source, statistics, place, work.compute)
            work.progress.say(f"{self.variant}: {storage.description}")
        write_variant(work.source, plan, statistics, place, advance, compute=work.compute)
