"""Shrinking gives the same bytes after any interruption, from which it makes at most one layer again, and on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.calibration import (
    BATCH_TOKENS,
    TOKEN_IDS,
    Killed,
    calibration_in,
    compute_in_memory,
    compute_on_disk,
    die_at,
    file_contents,
    mixture_of,
    single_mixture,
)
from support.models import micro_source
from support.plans import micro_plan
from support.product import COMPENSATIONS, Compensation, Compute, SafetensorsWriter, Source, TaskMixture
from support.stand_ins.cuda import pretend_cuda

from seap_export.model.layers import streams
from seap_export.pruning.activations.calibrate import collect_statistics
from seap_export.pruning.shrink import refit_streams
from seap_export.pruning.shrink.write import write_shrunk_model

#: A function or method, and which of its calls.
Place = tuple[object, str, int]


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


def die(case: Case, folder: Path, place: Place, compensation: Compensation, compute: Compute) -> None:
    """Runs until the process dies at a call of a function."""
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, *place)
        with pytest.raises(Killed):
            run(case, folder, compensation, compute)


@pytest.fixture
def layers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    layers: list[int] = []
    plain = Source.read_layer
    monkeypatch.setattr(Source, "read_layer", lambda self, layer: (layers.append(layer), plain(self, layer))[1])
    return layers


@pytest.mark.parametrize(
    ("compensation", "place", "calls", "on_disk"),
    [
        ("bias", (SafetensorsWriter, "write"), range(0, 24, 3), False),
        ("sequential", (SafetensorsWriter, "write"), range(0, 24, 3), False),
        ("sequential", (streams._KeptInMemory, "save"), range(6), False),
        ("sequential", (streams._KeptInFile, "save"), range(0, 6, 2), True),
        ("sequential", (streams._Saved, "forget"), range(0, 6, 2), False),
        ("sequential", (streams._Layout, "write"), range(0, 40, 9), True),
        ("sequential", (refit_streams, "refit"), range(3), True),
        ("sequential", (SafetensorsWriter, "flush"), range(3), False),
        ("sequential", (SafetensorsWriter, "__exit__"), [0], False),
    ],
)
def test_killed_anywhere_it_goes_on(
    case: Case, tmp_path: Path, layers_read: list[int], compensation: Any, place: Any, calls: Any, on_disk: bool
) -> None:
    compute = compute_on_disk(case.source) if on_disk else compute_in_memory()
    for call in calls:
        layers_read.clear()
        folder, reported = tmp_path / str(call), list[int]()
        die(case, folder, (*place, call), compensation, compute)
        run(case, folder, compensation, compute, on_layer=reported.append)
        assert reported == [0, 1, 2]
        assert file_contents(folder) == case.expected[compensation]
        assert len(layers_read) <= 4


@pytest.mark.parametrize("lost", ["model.safetensors", "unfinished/dense-00002"])
def test_what_was_lost_since_is_made_again(case: Case, tmp_path: Path, lost: str) -> None:
    """The end of the second layer, behind which alone streams are saved; or these."""
    die(case, tmp_path, (streams._KeptInMemory, "save", 4), "sequential", compute_in_memory())
    if lost == "model.safetensors":
        os.truncate(tmp_path / lost, (tmp_path / lost).stat().st_size - 1)
    else:
        (tmp_path / lost).unlink()
    run(case, tmp_path, "sequential", compute_in_memory())
    assert file_contents(tmp_path) == case.expected["sequential"]


#: Between them windows, soft caps, norms after sublayers, long rotations, scaled queries and biases.
@pytest.mark.parametrize("variation", ["llama-biases", "gemma2-all", "phi3-all", "ministral3-all"])
def test_on_a_gpu_calibration_and_shrinking_give_the_same_bytes(tmp_path: Path, variation: str) -> None:
    """Beside the comparison with transformers; nothing is mixed with the CPU."""
    source = micro_source(tmp_path / "model", variation)

    def made(work: Callable[[Path], object]) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        work(folder)
        return folder

    here = made(lambda folder: collect_statistics(source, TOKEN_IDS, folder, compute_in_memory(), check=False))
    with pretend_cuda() as device:
        for room in (2**62, 1):  # hidden states on the GPU, and in the host's memory
            there = Compute(device, device_memory=room, batch_tokens=BATCH_TOKENS)
            found = made(partial(collect_statistics, source, TOKEN_IDS, compute=there, check=room > 1))
            assert file_contents(found) == file_contents(here)
    statistics = single_mixture(calibration_in(here, source, "boolq", TOKEN_IDS))
    for compensation in COMPENSATIONS if variation == "llama-biases" else ("sequential",):
        write = partial(write_shrunk_model, source, micro_plan(source, compensation), statistics)
        here = made(partial(write, compute=compute_in_memory()))
        with pretend_cuda() as device:
            there = Compute(device, device_memory=2**62, batch_tokens=BATCH_TOKENS)
            assert file_contents(made(partial(write, compute=there))) == file_contents(here)
