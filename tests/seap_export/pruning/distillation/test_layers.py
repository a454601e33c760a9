"""Trained layers are the same in memory and in files, and survive the end of the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seap_export.pruning.distillation import layers as layers_module
from seap_export.pruning.distillation.layers import TrainedLayers


def values(layers: TrainedLayers) -> list[float]:
    return [float(layers[index]["w"]) for index in range(3)]


def begun(folder: Path, in_memory: bool) -> TrainedLayers:
    layers = TrainedLayers(folder, 3, in_memory)
    assert layers.step is None
    layers.begin({"w": torch.tensor(float(index))} for index in range(3))
    assert (layers.step, values(layers)) == (0, [0.0, 1.0, 2.0])
    return layers


def change_all(layers: TrainedLayers) -> None:
    for index in reversed(range(3)):
        layers.change(index, {"w": layers[index]["w"] + 10})
    layers.advance()


def test_files_of_a_step_that_was_not_finished_are_forgotten(tmp_path: Path) -> None:
    layers = begun(tmp_path, in_memory=False)
    change_all(layers)
    layers.change(2, {"w": torch.tensor(99.0)})  # and then the process ends
    again = TrainedLayers(tmp_path, 3, in_memory=False)
    assert (again.step, values(again)) == (1, [10.0, 11.0, 12.0])
    change_all(again)
    assert values(again) == [20.0, 21.0, 22.0]
    assert len(list(tmp_path.iterdir())) == 3


def test_layers_in_memory_are_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "_SAVE_EVERY", 2)
    layers = begun(tmp_path, in_memory=True)
    for step in (1, 2, 3):
        change_all(layers)
        assert (layers.step, values(layers)) == (step, [10.0 * step + index for index in range(3)])
    again = TrainedLayers(tmp_path, 3, in_memory=True)
    assert (again.step, values(again)) == (2, [20.0, 21.0, 22.0])
    change_all(layers)
    again = TrainedLayers(tmp_path, 3, in_memory=False)
    assert (again.step, values(again)) == (4, [40.0, 41.0, 42.0])
    assert len(list(tmp_path.iterdir())) == 3
