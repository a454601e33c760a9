"""Shrinking that was interrupted anywhere goes on, makes at most one layer again, and ends in the same bytes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.calibration import (
    TOKEN_IDS,
    Killed,
    compute_in_memory,
    compute_on_disk,
    die_at,
    file_contents,
    mixture_of,
)
from support.models import micro_source
from support.plans import micro_plan
from support.product import COMPENSATIONS, Compensation, Compute, SafetensorsWriter, Source, TaskMixture

from seap_export.model.layers import streams
from seap_export.pruning.shrink import refit_streams
from seap_export.pruning.shrink.write import write_shrunk_model


@dataclass
class Case:
    source: Source
    statistics: TaskMixture
    expected: Mapping[str, Mapping[str, bytes]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    work = tmp_path_factory.mktemp("case")
    source = micro_source(work / "model", "llama-gqa", "bfloat16")
    made = Case(source, mixture_of(source, work / "statistics", {"boolq": TOKEN_IDS}), {})
    for compensation in COMPENSATIONS:
        run(made, work / compensation, compensation, compute_in_memory())
    made.expected = {name: file_contents(work / name) for name in COMPENSATIONS}
    return made


def run(case: Case, folder: Path, compensation: Compensation, compute: Compute, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    plan = micro_plan(case.source, compensation)
    write_shrunk_model(case.source, plan, case.statistics, folder, compute=compute, **options)


@pytest.fixture
def layers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    layers: list[int] = []
    plain = Source.read_layer
    monkeypatch.setattr(Source, "read_layer", lambda self, layer: (layers.append(layer), plain(self, layer))[1])
    return layers


@pytest.mark.parametrize("compensation", ["bias", "sequential"])
def test_killed_before_any_tensor_is_written(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers_read: list[int], compensation: Compensation
) -> None:
    for call in itertools.count(step=3):
        layers_read.clear()
        folder = tmp_path / str(call)
        with monkeypatch.context() as patch:
            die_at(patch, SafetensorsWriter, "write", call)
            try:
                run(case, folder, compensation, compute_in_memory())
                break
            except Killed:
                pass
        reported: list[int] = []
        run(case, folder, compensation, compute_in_memory(), on_layer=reported.append)
        assert reported == [0, 1, 2]
        assert file_contents(folder) == case.expected[compensation]
        assert len(layers_read) <= 4
    assert call > 20


@pytest.mark.parametrize(
    ("what", "name", "calls", "where"),
    [
        (streams._KeptInMemory, "save", range(6), "memory"),
        (streams._KeptInFile, "save", range(0, 6, 2), "disk"),
        (streams._Saved, "forget", range(0, 6, 2), "memory"),
        (streams._Layout, "write", range(0, 40, 9), "disk"),
        (refit_streams, "refit", range(3), "disk"),
        (SafetensorsWriter, "flush", range(3), "memory"),
        (SafetensorsWriter, "__exit__", [0], "memory"),
    ],
)
def test_killed_while_the_streams_are_saved(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layers_read: list[int],
    what: object,
    name: str,
    calls: Sequence[int],
    where: str,
) -> None:
    compute = compute_in_memory() if where == "memory" else compute_on_disk(case.source)
    for call in calls:
        layers_read.clear()
        folder = tmp_path / str(call)
        with monkeypatch.context() as patch:
            die_at(patch, what, name, call)
            with pytest.raises(Killed):
                run(case, folder, "sequential", compute)
        run(case, folder, "sequential", compute)
        assert file_contents(folder) == case.expected["sequential"]
        assert len(layers_read) <= 4


@pytest.mark.parametrize("lost", ["model.safetensors", "unfinished/dense-00002"])
def test_what_was_lost_since_is_made_again(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The end of the second layer, behind which alone streams are saved; or these."""
    with monkeypatch.context() as patch:
        die_at(patch, streams._KeptInMemory, "save", 4)
        with pytest.raises(Killed):
            run(case, tmp_path, "sequential", compute_in_memory())
    if lost == "model.safetensors":
        os.truncate(tmp_path / lost, (tmp_path / lost).stat().st_size - 1)
    else:
        (tmp_path / lost).unlink()
    run(case, tmp_path, "sequential", compute_in_memory())
    assert file_contents(tmp_path) == case.expected["sequential"]
