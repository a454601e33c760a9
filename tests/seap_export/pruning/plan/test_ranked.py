"""An interrupted ranking goes on where it stopped, and is the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import Killed
from support.exports import tree
from support.models import micro_source
from support.plans import assert_same_options
from support.product import Calibration, Compute, Source, TaskMixture

from seap_export.errors import ArtifactError
from seap_export.pruning.plan import make
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.ranked import Ranking, read_ranking
from seap_export.pruning.plan.recipes import open_recipe

Calibrate = Callable[..., Calibration]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return micro_source(tmp_path / "model")


@pytest.fixture
def statistics(source: Source, random_calibration: Calibrate) -> TaskMixture:
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(("one", "two"))}
    return TaskMixture("mix", {"one": 1.0, "two": 2.0}, calibrations)


@pytest.mark.parametrize(("recipe", "work"), [("reconstruct", "_eliminate"), ("seap", "_scores")])
def test_an_interrupted_ranking_goes_on_and_is_the_same(
    source: Source, statistics: TaskMixture, tmp_path: Path, recipe: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file counts as none, and a damaged one is refused."""
    settings, made, plain = open_recipe(recipe), list[int](), getattr(make, work)
    monkeypatch.setattr(make, work, lambda *given: made.append(given[2]) or plain(*given))

    def ranked(folder: Path, **more: Any) -> Ranking:
        folder.mkdir(exist_ok=True)
        return rank_layers(source, statistics, settings, folder, compute=Compute(), **more)

    whole = ranked(tmp_path / "whole")
    expected, read = tree(tmp_path / "whole"), read_ranking(source.spec, tmp_path / "whole")
    assert torch.equal(read.sensitivity, statistics.sensitivity())
    assert (read.scores is None) is (recipe == "reconstruct")
    for option, other in zip(whole.options, read.options, strict=True):
        assert_same_options(option, other)
    for last in range(3):
        folder = tmp_path / str(last)

        def interrupt(layer: int, last: int = last) -> None:
            if layer == last:
                raise Killed

        with pytest.raises(Killed):
            ranked(folder, on_layer=interrupt)
        if last < 2:
            (folder / "layer-00002.safetensors.part").write_bytes(b"half a file")
        made.clear()
        done: list[int] = []
        again = ranked(folder, on_layer=done.append)
        assert done == [0, 1, 2]
        assert sorted(set(made)) == list(range(last + 1, 3))
        assert tree(folder) == expected
        plans = [plan_variant(source, statistics, ranking, settings, 0.3) for ranking in (whole, again)]
        assert plans[0] == plans[1]
    file = tmp_path / "whole" / "layer-00002.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="rank again"):
        read_ranking(source.spec, file.parent)
