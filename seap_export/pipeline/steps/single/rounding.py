"""A variant's model on the grid of quantised formats, rounded with the calibration texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.hf.format import HfFormat
from seap_export.pipeline.cost.cost import Cost, Disk, Rates
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.rounded import rounding_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.variant import OfVariant
from seap_export.pipeline.steps.step import StepContext
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.information import INFORMATION_TOKENS
from seap_export.pruning.rounding.write import write_rounded_model

#: Increased when the same inputs give different bytes than before.
_VERSION = 7


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    """Both streams, and before them one for the LM head; then for each input two factors and what columns pass on."""
    spec = model.work.spec
    read = 2 * len(spec.layers) * spec.hidden_size**2
    sums = model.squares / 2 + model.outputs + 1.5 * read
    walked = tokens.calibration_tokens * (3 * model.active + sums)
    passed_on = (model.linear + model.head) * spec.hidden_size
    factors = 2 * (model.cubes + read * spec.hidden_size) + 2 * model.linear * spec.hidden_size
    return (walked + passed_on) / rates.operations + factors / rates.double_operations


def information_bytes(model: KeptPart, tokens: TokenCounts) -> int:
    """Bytes of the hidden states before each layer, which are there until bits are shared out."""
    used = min(tokens.calibration_tokens, INFORMATION_TOKENS)
    return len(model.work.spec.layers) * model.hidden_bytes(TokenCounts(used, 0))


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """The model in float32; meanwhile two streams, as for the refit, and the tables outside of the layers.

    Before that, where each matrix has bits of its own, `information_bytes`; they count in any case.
    """
    tables = 4 * model.head * (1 if model.work.spec.tie_word_embeddings else 2)
    rounded = 4 * model.hidden_bytes(tokens) + tables
    return Disk(model.folder_bytes(HfFormat("fp32")), unfinished=max(rounded, information_bytes(model, tokens)))


def _memory(model: KeptPart, tokens: TokenCounts) -> float:
    """Besides what a refit needs, the layer in floats and rounded, and further matrices over the inputs of one."""
    hidden, inputs = model.hidden_bytes(tokens), 4 * tokens.calibration_tokens * model.kept * model.widest
    layer = model.working_bytes + 8 * model.layer_weights + 24 * model.widest**2
    return max(layer + 2 * hidden + inputs, 8 * model.head + hidden)


@dataclass(frozen=True)
class RoundingStep(OfVariant):
    """Rounds the weights of the model folder; it serves all formats with this grid."""

    cost = Cost(
        "rounding",
        _seconds,
        effort=1.8,  # roughly, from one run, as the next
        per_layer=0.4,
        count_disk=_disk,
        count_memory=_memory,
        on_device=True,
    )
    resumes = True

    grid: BlockQuantization

    @property
    def name(self) -> str:
        return rounding_step(self.variant, self.grid)

    @property
    def label(self) -> str:
        return f"{self.variant}: rounding to {self.grid.name.partition('-')[0]}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def _inputs(self) -> dict[str, Any]:
        return {self.before.name: self.before.key, **self.grid.to_json(), RELEASE: _VERSION}

    def statistics(self, work: StepContext) -> TaskMixture:
        """The calibration texts that the model is rounded with."""
        return self.plan.ranking.statistics(work)

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        if self.grid.average is not None:
            work.progress.say(f"{self.variant}: choosing the bits of each matrix")
        write_rounded_model(
            work.folder / self.before.name,
            self.statistics(work),
            self.grid,
            path,
            advance,
            compute=work.compute,
            vocabulary=self.plan.vocabulary,
        )
