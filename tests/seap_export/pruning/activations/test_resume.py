"""Calibration that was interrupted anywhere goes on, does at most one layer again, and ends in the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.calibration import TOKEN_IDS, Killed, compute_in_memory, compute_on_disk, die_at, file_contents
from support.models import micro_source
from support.product import Compute, DecoderLayer, Source, collect_statistics

from seap_export.pruning.activations import calibrate, sensitivity

#: Where the process dies: a function or method, and which of its calls.
Place = tuple[object, str, int]
Contents = Mapping[str, bytes]
#: Functions that calibration calls, and how often: each call is a place to die at.
INTERRUPTED_CALLS: tuple[Place, ...] = (
    (calibrate, "write_layer", 3),
    (calibrate._Run, "_save", 3),
    (calibrate._Run, "_sublayer", 6),
    (calibrate, "write_sensitivity", 1),
    (calibrate.shutil, "rmtree", 1),
    (sensitivity.Backward, "begin", 1),
    (sensitivity.Backward, "_keep", 7),
    (sensitivity, "_backward", 4),
    (calibrate.HiddenStates, "advance", 6),
)


def run(source: Source, folder: Path, compute: Compute, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    collect_statistics(source, TOKEN_IDS, folder, compute, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return micro_source(tmp_path_factory.mktemp("source") / "model", "gemma2-all")


@pytest.fixture(scope="module")
def expected(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(source, folder, compute_in_memory())
    return file_contents(folder)


def die(source: Source, folder: Path, place: Place, compute: Compute, **options: Any) -> None:
    """Runs until the process dies at a place."""
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, *place)
        with pytest.raises(Killed):
            run(source, folder, compute, **options)


@pytest.mark.parametrize(
    "place",
    [(module, name, call) for module, name, calls in INTERRUPTED_CALLS for call in range(calls)],
    ids=lambda place: f"{place[1]}-{place[2]}",
)
def test_the_bytes_are_those_of_an_undisturbed_run(
    source: Source, expected: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    """What is finished is not computed again."""
    compute = compute_on_disk(source) if place[2] % 2 else compute_in_memory()
    computed: Counter[int] = Counter()
    plain = DecoderLayer.__init__

    def counted(self: DecoderLayer, spec: Any, index: int, *arguments: Any, **options: Any) -> None:
        computed[index] += 1
        plain(self, spec, index, *arguments, **options)

    monkeypatch.setattr(DecoderLayer, "__init__", counted)
    die(source, tmp_path, place, compute, check=False)
    reported: list[int] = []
    run(source, tmp_path, compute, check=False, on_layer=reported.append)
    assert reported == [0, 1, 2]
    assert file_contents(tmp_path) == expected
    assert sum(computed.values()) <= 9 + 2
    assert sum(count > 3 for count in computed.values()) <= 1  # two sublayers, and the way back
    computed.clear()
    run(source, tmp_path, compute, check=False)
    assert not computed
    assert file_contents(tmp_path) == expected


@pytest.mark.parametrize("lost", ["layer-00000.safetensors", "unfinished/inputs-00000", "unfinished/gradient-00002"])
@pytest.mark.parametrize("place", [(calibrate._Run, "_sublayer", 4), (sensitivity, "_backward", 2)])
def test_what_was_lost_is_remade(source: Source, expected: Contents, tmp_path: Path, place: Place, lost: str) -> None:
    """On the way forward, and on the way back."""
    die(source, tmp_path, place, compute_in_memory(), check=False)
    (tmp_path / lost).unlink(missing_ok="gradient" in lost)
    run(source, tmp_path, compute_in_memory(), check=False)
    assert file_contents(tmp_path) == expected


@pytest.mark.parametrize(("name", "call"), [("write_layer", 0), ("keep_tensors", 1), ("write_layer", 2)])
def test_the_comparison_with_transformers_goes_on_too(
    source: Source, expected: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, name: str
) -> None:
    die(source, tmp_path, (calibrate, name, call), compute_in_memory())
    compared: list[str] = []
    plain = calibrate.WalkCheck._compare

    def noted(self: Any, where: str, *values: Any) -> Any:
        compared.append(where)
        return plain(self, where, *values)

    monkeypatch.setattr(calibrate.WalkCheck, "_compare", noted)
    run(source, tmp_path, compute_in_memory())
    assert compared == ["the embedding", *(f"layer {index}" for index in range(call, 3)), "the logits"]
    assert file_contents(tmp_path) == expected
