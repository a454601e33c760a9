"""A part of the work that remains, from which its time and disk space are estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from converters.format import Format
from seap_export.corpus import Sample, Split
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.cost.cost import Cost, Disk, Rates, total_disk
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.evaluation.quality import MAX_LENGTH
from seap_export.pipeline.texts.general_text import GENERAL_TEXT, MOST_TEXTS

#: Tokens of each task's texts, given the texts by task and the length after which a text is cut.
CountTokens = Callable[[Mapping[str, Sequence[Sample]], int], Mapping[str, int]]


@dataclass(frozen=True)
class PlannedWork:
    """A part of the work that remains: the kind of step, and what it works on.

    Attributes:
        ratio: The variant's ratio; 0 for work on the dense model.
        format: The format that it works on; None: the model folder, or no format at all.
        vocabulary: The tokens that the variant keeps; None: all.
        most_tokens: The most calibration tokens that are used; None: all.
    """

    cost: Cost
    tasks: tuple[str, ...]
    ratio: float = 0.0
    format: Format | None = None
    vocabulary: Vocabulary | None = None
    others: tuple[str, ...] = ()
    most_tokens: int | None = None
    passes: bool = False

    @property
    def label(self) -> str:
        """The label of the kind of step, or the name of the format that it writes."""
        return self.cost.label or ("" if self.format is None else self.format.name)

    def seconds(self, counts: Mapping[str, TokenCounts], work: Workload, rates: Rates) -> float:
        """About how many seconds it takes, given the tokens of all tasks and the workload."""
        return self.cost.seconds(self.tokens(counts), self.ratio, self._workload(work), rates)

    def disk(self, counts: Mapping[str, TokenCounts], work: Workload) -> Disk:
        """About how many bytes it takes on the disk, given the tokens of all tasks and the workload."""
        disk = self.cost.disk(self.tokens(counts), self.ratio, self._workload(work))
        return Disk(0, disk.kept + disk.unfinished, disk.temporary) if self.passes else disk

    def _workload(self, work: Workload) -> Workload:
        kept = work.with_tokens(self.vocabulary)
        return kept if self.format is None else replace(kept, format=self.format)

    def tokens(self, counts: Mapping[str, TokenCounts]) -> TokenCounts:
        """The tokens of all its tasks, and of a few texts of the others."""
        tasks = [counts[name] for name in self.tasks]
        held_out = sum(task.held_out_tokens for task in tasks) + sum(
            counts[name].shared_tokens for name in self.others
        )
        calibration = sum(task.calibration_tokens for task in tasks)
        most = calibration if self.most_tokens is None else min(calibration, self.most_tokens)
        asked, written = (sum(getattr(task, key) for task in tasks) for key in ("asked_tokens", "written_tokens"))
        return TokenCounts(most, held_out, tasks=len(tasks), asked_tokens=asked, written_tokens=written)


def planned_disk(parts: Iterable[PlannedWork], counts: Mapping[str, TokenCounts], work: Workload) -> Disk:
    """The disk space of parts of the work that are done one after the other."""
    return total_disk(part.disk(counts, work) for part in parts)


def token_counts(
    splits: Mapping[str, Split], general: Sequence[Sample], max_length: int, count: CountTokens
) -> dict[str, TokenCounts]:
    """The tokens of each task, and of the general text.

    Args:
        general: The general text; empty: none is measured on.
    """

    def counted(texts: Mapping[str, Sequence[Sample]], length: int) -> Mapping[str, int]:
        return dict.fromkeys(texts, 0) | dict(
            count({name: samples for name, samples in texts.items() if samples}, length)
        )

    calibration = counted({name: split.calibration for name, split in splits.items()}, max_length)
    held_out = counted({name: split.held_out for name, split in splits.items()}, MAX_LENGTH)
    few = {name: split.held_out[:MOST_TEXTS] for name, split in splits.items()}
    shared = counted({**few, GENERAL_TEXT: general}, MAX_LENGTH)
    sizes = {name: TokenCounts(calibration[name], held_out[name], shared[name]) for name in splits}
    return {**sizes, GENERAL_TEXT: TokenCounts(0, 0, shared[GENERAL_TEXT])}
