"""The step of a search that guesses the costs of rounding and pruning, so that few candidates have to be made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.pipeline.cost.cost import Cost, Disk, Rates
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.rounding import information_bytes
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pruning.allocation.guess import RATIOS, guess_pruning
from seap_export.pruning.allocation.texts import FITTED_TOKENS, JUDGED_TOKENS
from seap_export.pruning.plan.choice.solve import largest_ratio
from seap_export.pruning.plan.ranked import read_ranking
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.information import INFORMATION_TOKENS
from seap_export.pruning.rounding.shares import guess_rounding

#: Increased when the same inputs give different bytes than before.
_VERSION = 2


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    """The dense model there and back on a few tokens; then each ratio runs and refits it, and compares both."""
    rounded = min(tokens.calibration_tokens, INFORMATION_TOKENS) * 4 * (model.dense_linear + model.head)
    tried = min(tokens.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS)
    trial = tried * (model.dense_linear + model.squares / 2 + model.outputs) + 2 * JUDGED_TOKENS * model.head
    systems = (len(RATIOS) * model.refit_systems + model.cubes) / rates.double_operations
    return (rounded + tried * model.dense_linear + len(RATIOS) * trial) / rates.operations + systems


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """The hidden states before each layer; later, if they do not fit in memory, what each sublayer of trials wrote."""
    before, tried = information_bytes(model, tokens), model.hidden_bytes(_tried(tokens))
    return Disk(unfinished=max(before, (len(model.work.spec.channels) + 3) * tried))


def _memory(model: KeptPart, tokens: TokenCounts) -> float:
    """The model, which trials keep, what each sublayer wrote, both streams and a refit; about 2.5 GB were measured.

    Before that, the LM head and the embedding, and the logits of a few tokens with their gradients.
    """
    spec, tried = model.work.spec, _tried(tokens)
    tables = 4 * model.head * (1 if spec.tie_word_embeddings else 2)
    trials = 4 * model.dense_linear + 2 * tables + (len(spec.channels) + 3) * model.hidden_bytes(tried)
    return max(trials + model.working_bytes, 2 * tables + 8 * 4 * LOGIT_TOKENS * spec.vocab_size)


def _tried(tokens: TokenCounts) -> TokenCounts:
    return TokenCounts(min(tokens.calibration_tokens, FITTED_TOKENS + JUDGED_TOKENS), 0)


@dataclass(frozen=True)
class GuessStep(PathStep):
    """Guesses the cost of rounding by the importance of each matrix, and that of pruning by a few quick refits."""

    cost = Cost(
        "guesses",
        _seconds,
        effort=1.4,  # roughly, from one run, as the next
        per_layer=1.0,
        count_disk=_disk,
        count_memory=_memory,
        on_device=True,
    )
    is_folder = False
    unit = "parts"

    ranking: RankingStep
    grid: BlockQuantization

    @property
    def name(self) -> str:
        return f"guess/{self.ranking.mixture.name}.json"

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.ranking,)

    @property
    def label(self) -> str:
        return f"{self.ranking.mixture.name}: guessing what rounding and pruning cost"

    @property
    def units(self) -> int:
        return 1 + len(RATIOS)

    def _inputs(self) -> dict[str, Any]:
        settings, layers = self.ranking.settings, self.ranking.units
        values = asdict(settings) | {"sparsity": asdict(settings.sparsity.resolved(layers))}
        return {self.ranking.name: self.ranking.key, **values, **self.grid.to_json(), RELEASE: _VERSION}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        statistics, settings, source = self.ranking.statistics(work), self.ranking.settings, work.source
        texts = [ids for ids, _ in statistics.token_ids()]
        rounded = guess_rounding(source, texts, self.grid, path.parent, work.compute.device)
        advance(None)
        pruned = []
        if settings.compensation == "sequential":
            most = largest_ratio(source.spec, settings.sparsity, settings.align, settings.layout)
            ranking = read_ranking(source.spec, work.of_task(self.ranking))
            ratios = [ratio for ratio in RATIOS if ratio <= most]
            pruned = guess_pruning(
                source, statistics, ranking, settings, ratios, path.parent, work.compute, lambda _: advance(None)
            )
        write_json(path, Guess(tuple(rounded), tuple(pruned) or USUAL.pruned).to_json())

    def read(self, folder: Path) -> Guess:
        """The guess of a folder in which it was made."""
        return Guess.read(read_artifact(folder / self.name))
