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
from seap_export.pruning.plan.settings import PlanSettings

Calibrate = Callable[..., Calibration]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return micro_source(tmp_path / "model")


@pytest.fixture
def statistics(source: Source, random_calibration: Calibrate) -> TaskMixture:
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(("one", "two"))}
    return TaskMixture("mix", {"one": 1.0, "two": 2.0}, calibrations)


def ranked(source: Source, statistics: TaskMixture, settings: PlanSettings, folder: Path, **more: Any) -> Ranking:
    folder.mkdir(exist_ok=True)
    return rank_layers(source, statistics, settings, folder, compute=Compute(), **more)


@pytest.mark.parametrize("recipe", ["reconstruct", "seap"])
def test_an_interrupted_ranking_goes_on_and_is_the_same(
    source: Source, statistics: TaskMixture, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = open_recipe(recipe)
    whole = ranked(source, statistics, settings, tmp_path / "whole")
    read = read_ranking(source.spec, tmp_path / "whole")
    assert torch.equal(read.sensitivity, statistics.sensitivity())
    assert (read.scores is None) is (recipe == "reconstruct")
    for option, other in zip(whole.options, read.options, strict=True):
        assert_same_options(option, other)
    made: list[int] = []
    for name in ("_eliminate", "_scores"):
        monkeypatch.setattr(make, name, counted(getattr(make, name), made))
    for last in range(3):
        folder = tmp_path / str(last)

        def interrupt(layer: int, last: int = last) -> None:
            if layer == last:
                raise Killed

        with pytest.raises(Killed):
            ranked(source, statistics, settings, folder, on_layer=interrupt)
        made.clear()
        done: list[int] = []
        again = ranked(source, statistics, settings, folder, on_layer=done.append)
        assert done == [0, 1, 2]
        assert sorted(set(made)) == list(range(last + 1, 3))
        assert tree(folder) == tree(tmp_path / "whole")
        plans = [plan_variant(source, statistics, ranking, settings, 0.3) for ranking in (whole, again)]
        assert plans[0] == plans[1]


def counted(work: Callable[..., Any], made: list[int]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        made.append(arguments[2])
        return work(*arguments)

    return run


def test_half_a_file_counts_as_none_and_a_damaged_one_is_refused(
    source: Source, statistics: TaskMixture, tmp_path: Path
) -> None:
    settings, folder = open_recipe(), tmp_path / "ranking"
    ranked(source, statistics, settings, folder)
    expected = tree(folder)
    last = folder / "layer-00002.safetensors"
    (folder / "sensitivity.safetensors").unlink()
    last.with_name(f"{last.name}.part").write_bytes(last.read_bytes()[:100])
    last.unlink()
    ranked(source, statistics, settings, folder)
    assert tree(folder) == expected
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="rank again"):
        read_ranking(source.spec, folder)
