"""`seap-export plan`: what pruning would keep, from statistics that lie anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from seap_export.corpus import Task
from seap_export.errors import UsageError
from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.mixtures import SUPPORT, open_mixture
from seap_export.pipeline.texts.vocabulary import choose_vocabularies
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.plan.choice.solve import check_ratio
from seap_export.pruning.plan.make import rank_layers
from seap_export.pruning.plan.plan import Plan, write_plan
from seap_export.pruning.plan.settings import PlanSettings


def plan(
    source: Source,
    calibrations: Sequence[Path],
    settings: PlanSettings,
    ratio: float,
    out: Path | None,
    progress: Progress,
    *,
    weights: Sequence[str] = (),
    tasks: Sequence[Task] = (),
    vocabulary: VocabularySize = "all",
    force: bool = False,
    compute: Compute,
) -> Plan:
    """Plans one variant.

    Args:
        source: The dense model.
        calibrations: The folders of the tasks' statistics.
        ratio: Fraction to remove.
        out: The plan.json to write; None: nothing is written.
        progress: Reports what happens.
        weights: The weights of the tasks, as `TASK=WEIGHT`.
        tasks: The texts of the same tasks, which the vocabulary goes by.
        vocabulary: How many tokens to keep.
        force: Replace an existing file.
        compute: Where layers are ranked and plans tried.

    Raises:
        UsageError: The ratio, a weight or the tasks contradict the model or the statistics, or `out` exists.
        InputError: The model or a corpus cannot be used, or the statistics belong to another model.
        ArtifactError: A folder has no statistics.
    """
    check_ratio(source.spec, ratio, settings.sparsity, settings.align, settings.layout)
    statistics = open_mixture(calibrations, weights)
    kept = _vocabulary(source, statistics, tasks, vocabulary, progress)
    with write_whole(out, force=force) if out else nullcontext() as path, TemporaryDirectory() as folder:
        progress.say(f"hashing {source.name}")
        with progress.step(f"ranking {statistics.name}", len(source.spec.layers)) as advance:
            ranking = rank_layers(source, statistics, settings, Path(folder), advance, compute=compute)
        with progress.step("planning", settings.tried or None, "trials") as advance:
            chosen = choose_plan(
                source,
                statistics,
                ranking,
                settings,
                ratio,
                Path(folder),
                advance,
                vocabulary=kept,
                compute=compute,
                say=progress.say,
            )
        if path:
            write_plan(chosen, path)
    return chosen


def _vocabulary(
    source: Source, statistics: TaskMixture, tasks: Sequence[Task], size: VocabularySize, progress: Progress
) -> Vocabulary | None:
    """Chooses the tokens that the variant keeps; None if it keeps all."""
    if size == "all":
        if tasks:
            raise UsageError("--task has no effect without --vocabulary; add --vocabulary auto, or leave it out")
        return None
    names, wanted = sorted(task.name for task in tasks), sorted(set(statistics.weights) - {SUPPORT})
    if names != wanted:
        raise UsageError(
            "--vocabulary goes by the texts of the same tasks as --calibration; "
            f"give --task for each of {', '.join(wanted)}, and for no other"
        )
    return choose_vocabularies(source, tasks, {statistics.name: names}, size, progress)[statistics.name]
