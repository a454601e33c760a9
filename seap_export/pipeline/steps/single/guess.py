"""The step of a search that guesses the costs of rounding and pruning, so that few candidates have to be made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pruning.allocation.guess import RATIOS, guess_pruning
from seap_export.pruning.plan.choice.solve import largest_ratio
from seap_export.pruning.plan.ranked import read_ranking
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.shares import guess_rounding

#: Increased when the same inputs give different bytes than before.
_VERSION = 2


@dataclass(frozen=True)
class GuessStep(PathStep):
    """Guesses the cost of rounding by the importance of each matrix, and that of pruning by a few quick refits."""

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
