"""What an export still has to do, in terms of its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.format import Format
from seap_export.corpus import Sample, Split
from seap_export.pipeline.cost.workload import Task, Workload
from seap_export.pipeline.evaluation.quality import MAX_LENGTH
from seap_export.pipeline.folder.names import QUALITY
from seap_export.pipeline.folder.performance import read_performance
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.build import ExportSteps
from seap_export.pipeline.steps.formats import FormatStep, ParityStep
from seap_export.pipeline.steps.step import Step
from seap_export.pipeline.steps.variant import OfVariant, PlanStep
from seap_export.pipeline.texts.general_text import GENERAL_TEXT, MOST_TEXTS
from seap_export.vocabulary.table import Vocabulary

__all__ = ["Remaining", "remaining_work", "task_sizes"]

#: Tokens of each task's texts, given the texts by task and the length after which a text is cut.
CountTokens = Callable[[Mapping[str, Sequence[Sample]], int], Mapping[str, int]]


@dataclass(frozen=True)
class Remaining:
    """A part of the work.

    Attributes:
        kind: A step as `estimate.step_seconds` and `disk.step_disk` call it.
        tasks: The tasks whose texts it works on.
        ratio: The variant's; 0 for what belongs to the dense model.
        own: The format that it works on; None: the model folder, or what has none.
        vocabulary: The tokens that the variant keeps; None: all.
        others: Further tasks, and the general text, on a few texts of which quality is measured.
    """

    kind: str
    tasks: tuple[str, ...]
    ratio: float = 0.0
    own: Format | None = None
    vocabulary: Vocabulary | None = None
    others: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The kind, or for what writes a format its name."""
        return self.own.name if self.kind == "writing" and self.own is not None else self.kind

    def of(self, work: Workload) -> Workload:
        """What this part depends on."""
        kept = work.with_tokens(self.vocabulary)
        return kept if self.own is None else replace(kept, own=self.own)

    def size(self, tasks: Mapping[str, Task]) -> Task:
        """The tokens of all its tasks, and of a few texts of the others."""
        own = [tasks[name] for name in self.tasks]
        elsewhere = sum(tasks[name].elsewhere_tokens for name in self.others)
        held_out = sum(one.held_out_tokens for one in own)
        return Task(sum(one.calibration_tokens for one in own), held_out + elsewhere)


def remaining_work(
    request: ExportRequest, steps: ExportSteps, missing: Sequence[Step], out: Path
) -> tuple[Remaining, ...]:
    """In order.

    Args:
        request: What is to be made.
        steps: All steps.
        missing: Those that are not made yet.
        out: The output folder.
    """
    found = [Remaining(step.kind, step.tasks, _ratio(step), _format(step), _vocabulary(step)) for step in missing]
    timed = read_performance(out).speed
    own = None if request.measured is None else request.measured.own
    for name, variant in request.variants.items():
        names, ratio = tuple(variant.mixture.weights), variant.ratio
        own = None if variant.measured is None else variant.measured.own
        kept = steps.variants[name].plan.vocabulary
        compared = steps.variants[name].parity.values()
        found += [Remaining("validation", names, ratio, step.before.own, kept) for step in compared if step in missing]
        if request.quality and not (out / name / QUALITY).exists():
            others = (*(task for task in steps.calibrations if task not in names), GENERAL_TEXT)
            found.append(Remaining("quality", names, ratio, own, kept, others))
        if request.speed and name not in timed:
            found.append(Remaining("speed", names, ratio, own, kept))
    dense = [kind for kind in ("quality", "speed") if any(part.kind == kind for part in found)]
    return (*found, *(Remaining(kind, tuple(steps.calibrations), own=own, others=(GENERAL_TEXT,)) for kind in dense))


def _ratio(step: Step) -> float:
    return step.ratio if isinstance(step, PlanStep | OfVariant) else 0.0


def _vocabulary(step: Step) -> Vocabulary | None:
    if isinstance(step, PlanStep):
        return step.vocabulary
    return step.plan.vocabulary if isinstance(step, OfVariant) else None


def _format(step: Step) -> Format | None:
    if isinstance(step, FormatStep):
        return step.own
    return step.before.own if isinstance(step, ParityStep) else None


def task_sizes(
    splits: Mapping[str, Split], general: Sequence[Sample], max_length: int, count: CountTokens
) -> dict[str, Task]:
    """The tokens of each task, and of the general text.

    Args:
        splits: The texts of the tasks.
        general: The general text; empty: none is measured on.
        max_length: Tokens after which a calibration text is cut.
        count: Counts tokens.
    """

    def counted(texts: Mapping[str, Sequence[Sample]], length: int) -> Mapping[str, int]:
        return dict.fromkeys(texts, 0) | dict(count({name: own for name, own in texts.items() if own}, length))

    calibration = counted({name: own.calibration for name, own in splits.items()}, max_length)
    held_out = counted({name: own.held_out for name, own in splits.items()}, MAX_LENGTH)
    few = {name: own.held_out[:MOST_TEXTS] for name, own in splits.items()}
    elsewhere = counted({**few, GENERAL_TEXT: general}, MAX_LENGTH)
    sizes = {name: Task(calibration[name], held_out[name], elsewhere[name]) for name in splits}
    return {**sizes, GENERAL_TEXT: Task(0, 0, elsewhere[GENERAL_TEXT])}
