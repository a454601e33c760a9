"""Steps are those of torch's Adam at a relative rate; layers in memory and in files are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seap_export.pruning.distillation import layers as layers_module
from seap_export.pruning.distillation.adam import FIRST, SECOND, Adam, learning_rate
from seap_export.pruning.distillation.layers import TrainedLayers


@pytest.mark.parametrize("size", [0.02, 3.0])
def test_it_is_torch_s_adam_at_a_relative_rate(size: float) -> None:
    chance = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(8, 5, generator=chance) * size, "b": torch.ones(2)}
    expected = torch.nn.Parameter(tensors["w"].clone())
    reference = torch.optim.Adam([expected], betas=(0.9, 0.95), eps=1e-16)
    for step in range(6):
        gradient = torch.randn(8, 5, generator=chance) * 1e-3
        rate = learning_rate(step, 6, 0.1) * float(expected.detach().square().mean().sqrt())
        reference.param_groups[0]["lr"] = rate
        expected.grad = gradient.clone()
        reference.step()
        Adam(step, 6).update(tensors, {"w": gradient}, 0.1)
        torch.testing.assert_close(tensors["w"], expected.detach(), rtol=1e-5, atol=1e-7 * size)
    assert set(tensors) == {"w", "w" + FIRST, "w" + SECOND, "b"}
    assert torch.equal(tensors["b"], torch.ones(2))  # it has no gradient


def test_the_rate_rises_and_then_falls_towards_zero() -> None:
    rates = [learning_rate(step, 40, 1.0) for step in range(40)]
    peak = rates.index(max(rates))
    assert peak == 3
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.05 * max(rates)
    assert 0 < learning_rate(0, 1, 1.0) <= max(rates)
    # and follows the root of a small divergence
    large, small, smaller = (learning_rate(3, 40, loss) for loss in (1.0, 0.08, 0.02))
    assert large == learning_rate(3, 40, 0.3) == learning_rate(3, 40, 0.32) > small
    assert smaller == pytest.approx(small / 2)
    assert learning_rate(3, 40, -1e-9) == 0.0  # rounding of a divergence of zero


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
