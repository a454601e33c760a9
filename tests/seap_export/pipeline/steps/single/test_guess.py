from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.models import micro_source
from support.product import USUAL, BlockQuantization, Compute, Guess, Silent, StepContext, open_recipe

from seap_export.pipeline.steps.single import guess
from seap_export.pipeline.steps.single.guess import GuessStep


@pytest.mark.parametrize("compensation", ["sequential", "none"])
def test_ratios_that_no_plan_reaches_are_left_out(
    compensation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where nothing is refitted, nothing is tried."""
    rounded = [(2.25, 0.5), (8.25, 0.001)]
    asked, units = list[list[float]](), list[object]()

    def pruning(*arguments: Any) -> list[tuple[float, float]]:
        asked.append(arguments[4])
        return [(ratio, ratio / 2) for ratio in arguments[4]]

    monkeypatch.setattr(guess, "guess_rounding", lambda *_: rounded)
    monkeypatch.setattr(guess, "guess_pruning", pruning)
    monkeypatch.setattr(guess, "largest_ratio", lambda *_: 0.2)
    monkeypatch.setattr(guess, "read_ranking", lambda *_: None)
    texts = SimpleNamespace(token_ids=list)
    settings = SimpleNamespace(**{**vars(open_recipe()), "compensation": compensation})
    ranking: Any = SimpleNamespace(
        mixture=SimpleNamespace(name="a"), settings=settings, statistics=lambda work: texts, name="ranking/a"
    )
    step = GuessStep(ranking, BlockQuantization(4, average=4.5))
    (tmp_path / "guess").mkdir()
    work = StepContext(micro_source(tmp_path / "dense"), tmp_path, Compute(), Silent())
    step.make(work, tmp_path / step.name, units.append)
    pruned = ((0.1, 0.05),) if compensation == "sequential" else USUAL.pruned
    assert step.read(tmp_path) == Guess(tuple(rounded), pruned)
    assert asked == ([[0.1]] if compensation == "sequential" else [])
    assert units
