"""Shrunk models for the benchmarks, and what the dense model says of the texts that they are evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seap_export.model.layers.compute import Compute
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.distillation.write import write_variant
from seap_export.pruning.plan.make import rank_layers
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.settings import PlanSettings
from validation.divergence.dense import DenseAnswers, DenseReference
from validation.execution import Execution
from validation.generation.fresh import with_fresh_texts
from validation.prompts import tokenize_prompts

#: Tokens of an evaluated text.
MAX_TOKENS = 256


def held_out_texts(calibration: Calibration, number: int) -> list[str]:
    return [sample["prompt"] + sample["completion"] for sample in calibration.record.held_out[:number]]


@contextmanager
def dense_reference(dense: Path, texts: Sequence[str], *execution: Execution) -> Iterator[DenseReference]:
    ids = tokenize_prompts(dense, texts, max_tokens=MAX_TOKENS, vocab_size=read_spec(dense).vocab_size)
    with DenseAnswers(dense, *execution) as answers:
        answers.run(ids)
        yield answers.reference(ids)


def mixture_of(calibration: Calibration) -> TaskMixture:
    task = calibration.record.task
    return TaskMixture(task, {task: 1.0}, {task: calibration})


class Shrinker:
    """Writes shrunk models; a ranking serves all ratios."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key: tuple[Any, ...] = ()
        self._ranking: Ranking | None = None
        self._fresh: dict[tuple[str, int], TaskMixture] = {}

    def write(self, calibration: Calibration, settings: PlanSettings, ratio: float, folder: Path) -> float:
        """Writes the model into `folder`, which is made if need be, and returns the achieved ratio."""
        folder.mkdir(exist_ok=True)
        statistics = mixture_of(calibration)
        key = (statistics.name, settings.score, settings.square_heads, settings.ridge)
        if self._ranking is None or key != self._key:
            with TemporaryDirectory() as kept:
                ranking = rank_layers(self._source, statistics, settings, Path(kept), compute=Compute())
            self._key, self._ranking = key, ranking
        with TemporaryDirectory() as kept:
            plan = choose_plan(self._source, statistics, self._ranking, settings, ratio, Path(kept), compute=Compute())
        write_variant(self._source, plan, self._with_fresh(statistics, settings) if ratio else statistics, folder)
        return plan.achieved_ratio

    def _with_fresh(self, statistics: TaskMixture, settings: PlanSettings) -> TaskMixture:
        """The statistics with the fresh texts of their task, which serve all ratios and recipes."""
        number = settings.fresh
        key = statistics.name, number
        if number and key not in self._fresh:
            with TemporaryDirectory() as scratch:
                model, written = Path(scratch, "model"), Path(scratch, "texts")
                written.mkdir()
                self.write(statistics.calibrations[statistics.name], settings, 0.0, model)
                self._fresh[key] = with_fresh_texts(model, statistics, number, written, compute=Compute())
        return self._fresh.get(key, statistics)
