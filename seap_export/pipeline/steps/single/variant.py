"""The first steps of a variant: its plan and its model folder. The module `formats` has those of the other formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from seap_export.corpus import Split
from seap_export.model.sources.tokenizer import note_job
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import PLAN, variant_name
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.fresh import FreshStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pipeline.texts.answered import answered_texts, answers_digest
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.distillation.learning import LEARNING, LEARNT, UNITS, learn_answers
from seap_export.pruning.distillation.write import variant_units, write_variant
from seap_export.pruning.plan.plan import PLAN_SCHEMA, read_plan, write_plan
from seap_export.pruning.plan.ranked import read_ranking
from seap_export.pruning.shrink.sequential import storage_for_both
from seap_export.pruning.shrink.write import MODELING_FILES

#: Increased when the same inputs give different bytes than before.
_PLAN, _HF = 3, 6


@dataclass(frozen=True)
class PlanStep(PathStep):
    """Decides what a variant keeps.

    Attributes:
        ratio: Fraction to remove.
        vocabulary: The tokens that are kept; None: all.
    """

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
    def label(self) -> str:
        return f"{self.variant}: planning"

    @property
    def units(self) -> int | None:
        return self.ranking.settings.tried or None

    def _inputs(self) -> dict[str, Any]:
        settings, layers = self.ranking.settings, self.ranking.units
        # The default protection gives the same key as the equal explicit one.
        values = asdict(settings) | {"sparsity": asdict(settings.sparsity.resolved(layers))}
        del values["calibration_tokens"], values["learning"]
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

    def variant_sizes(self, dense: Sizes) -> Sizes:
        """The sizes of the variant's folders."""
        return dense.variant(self.plan.ratio, self.plan.vocabulary)


@dataclass(frozen=True)
class ShrinkStep(OfVariant):
    """Shrinks, refits and distils the layers, and writes them as a model that transformers loads.

    Attributes:
        learns: Whether the model is trained on the right answers of its tasks, if they are to be learnt.
    """

    unit = "parts"
    resumes = True

    learns: bool = False

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
    def learnt(self) -> tuple[Split, ...]:
        """The texts of the tasks whose right answers the model learns."""
        ranking = self.plan.ranking
        splits = (step.split for step in ranking.calibrations)
        return tuple(split for split in splits if split.is_learnt and self.learns and ranking.settings.learned)

    @property
    def label(self) -> str:
        return f"{self.variant}: shrinking"

    def size(self, dense: Sizes) -> int:
        return self.variant_sizes(dense).folder(dense.stored)

    @property
    def units(self) -> int:
        return self._parts + (UNITS * self.plan.ranking.settings.learned if self.learnt else 0)

    @property
    def _parts(self) -> int:
        """The units of the model before it learns."""
        ranking = self.plan.ranking
        return variant_units(ranking.units, ranking.settings.passes_over(ranking.num_tokens), self.plan.ratio)

    def _inputs(self) -> dict[str, Any]:
        # The modelling code is part of the model.
        code = [(resources.files("seap_export.model.modeling") / name).read_text("utf-8") for name in MODELING_FILES]
        answers = (
            {"right answers": answers_digest(self.learnt), "learning": self.plan.ranking.settings.learned}
            if self.learnt
            else {}
        )
        return {**{step.name: step.key for step in self.needs}, **answers, RELEASE: [_HF, code]}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        if any((path / name).exists() for name in (LEARNING, LEARNT)):
            for part in range(self._parts):
                advance(part)
        else:
            self._shrink(work, path, advance)
        if self.learnt:
            self._learn(work, path, advance)

    def _shrink(self, work: StepContext, path: Path, advance: Advance) -> None:
        plan = read_plan(work.folder / self.plan.name)
        fresh = {step.calibration.task: step.token_ids(work) for step in self.fresh}
        statistics = self.plan.ranking.statistics(work).with_fresh(fresh)
        if plan.settings.compensation == "sequential":
            storage = storage_for_both(work.source, statistics, path, work.compute)
            work.progress.say(f"{self.variant}: {storage.description}")
        write_variant(work.source, plan, statistics, path, advance, compute=work.compute)

    def _learn(self, work: StepContext, path: Path, advance: Advance) -> None:
        ranking = self.plan.ranking
        longest = max(step.settings.max_length for step in ranking.calibrations)
        texts = answered_texts(path, self.learnt, longest)
        work.progress.say(f"{self.variant}: learning {len(texts)} right answers")
        learned = learn_answers(path, texts, ranking.settings.learned, advance, compute=work.compute)
        jobs = [split.job for split in self.learnt if split.job is not None]
        if len(jobs) == len(ranking.calibrations) == 1:
            note_job(path, jobs[0])
        before, after = learned.passes[0].right, learned.passes[learned.best].right
        work.progress.say(
            f"{self.variant}: {before:.0%} of the answers that judge it were right before, and {after:.0%} after "
            f"{learned.best} of {len(learned.passes) - 1} passes"
        )
