"""How far the predictions of a rounded model are from those of the model that was rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.onnx.precision import Precision
from seap_export.pruning.rounding.grid import BlockQuantization
from validation.array_store import ArrayStore
from validation.execution import Execution, Say
from validation.metrics import LogitComparison
from validation.parity.references import Reference, TokenSequence, run_of
from validation.parity.rounding import round_weights
from validation.runtimes.pytorch.torch_runner import open_torch_runner

#: What rounding may always cost, nats per token, and how many times what the nearest levels cost, which is measured if
#: it costs more. It costs about as much as those at most: docs/contributing/checks.md#rounded-models.
_LEAST, _FACTOR = 0.05, 3.0
#: Prompts that are compared.
_PROMPTS = 2


@dataclass(frozen=True)
class Origin:
    """The model that was rounded: its folder, and the grid that it was rounded to."""

    folder: Path
    grid: BlockQuantization


@dataclass(frozen=True)
class OriginFigures:
    """The mean KL of a rounded model from the model that was rounded, and the most that it may be, nats per token."""

    kl: float
    limit: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the check failed, in words; empty if it passed."""
        if self.kl <= self.limit:
            return ()
        return (
            f"the rounded model's KL from the model that was rounded is {self.kl:.2g} > {self.limit:.2g}, "
            f"{_FACTOR:g} times that of the nearest levels; export again",
        )

    def to_json(self) -> dict[str, Any]:
        return {"kl_nats": self.kl, "limit_nats": self.limit}


def compare_with_origin(
    origin: Origin,
    execution: Execution,
    sequences: Sequence[TokenSequence],
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    say: Say,
) -> OriginFigures:
    """Opens the model that was rounded, and compares the rounded one with it on the first of some texts."""
    say("torch: the model that was rounded")
    chosen = sequences[:_PROMPTS]
    with open_torch_runner(origin.folder, execution) as runner:
        runs = [run_of(one, one.parts(runner.spec), runner.spec) for one in chosen]
        truths = [store.put(logits) for logits in runner.run(runs)]

        def mean_kl(computed: Iterable[NDArray[np.float32]]) -> float:
            comparison = LogitComparison()
            for truth, logits in zip(truths, computed, strict=True):
                comparison.update(store.get(truth), logits)
            return comparison.figures().mean_kl or 0.0

        kl, limit = mean_kl(store.get(references[sequence].logits) for sequence in chosen), _LEAST
        if kl > limit and (change := round_weights(runner.spec, Precision("fp32", _plain(origin.grid)))) is not None:
            say("torch: the same, rounded to the nearest levels")
            runner.change_weights(change)
            limit = max(limit, _FACTOR * mean_kl(runner.run(runs)))
    return OriginFigures(kl, limit)


def _plain(grid: BlockQuantization) -> BlockQuantization:
    """The grid without a step for each row, and bits for each row of a table, which take long or cost little."""
    return replace(grid, rows=False, splits_tables=False, tables=())
