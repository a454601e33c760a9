"""Steps are those of torch's Adam; layers are the same in memory and in files, steps in any order of texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.corpora import random_token_ids
from support.product import Compute

from seap_export.pruning.distillation import layers as layers_module
from seap_export.pruning.distillation import texts as texts_module
from seap_export.pruning.distillation.adam import FIRST, SECOND, Adam, learning_rate
from seap_export.pruning.distillation.layers import TrainedLayers
from seap_export.pruning.distillation.texts import TrainingStep, number_of_steps, training_steps


@pytest.mark.parametrize("size", [0.02, 3.0])
def test_it_is_torch_s_adam_at_a_relative_rate(size: float) -> None:
    chance = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(8, 5, generator=chance) * size, "b": torch.ones(2)}
    expected = torch.nn.Parameter(tensors["w"].clone())
    reference = torch.optim.Adam([expected], betas=(0.9, 0.95), eps=1e-16)
    for step in range(6):
        gradient = torch.randn(8, 5, generator=chance) * 1e-3
        rate = learning_rate(step, 6, 5e-4, 0.1) * float(expected.detach().square().mean().sqrt())
        reference.param_groups[0]["lr"] = rate
        expected.grad = gradient.clone()
        reference.step()
        Adam(step, 6, 5e-4).update(tensors, {"w": gradient}, 0.1)
        torch.testing.assert_close(tensors["w"], expected.detach(), rtol=1e-5, atol=1e-7 * size)
    assert set(tensors) == {"w", "w" + FIRST, "w" + SECOND, "b"}
    assert torch.equal(tensors["b"], torch.ones(2))  # it has no gradient


def test_the_rate_rises_and_then_falls_towards_zero() -> None:
    rates = [learning_rate(step, 40, 1e-3, 1.0) for step in range(40)]
    peak = rates.index(max(rates))
    assert peak == 3
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.05 * max(rates)
    assert 0 < learning_rate(0, 1, 1e-3, 1.0) <= max(rates)
    # and follows the root of a small divergence
    large, small, smaller = (learning_rate(3, 40, 1e-3, loss) for loss in (1.0, 0.08, 0.02))
    assert large == learning_rate(3, 40, 1e-3, 0.3) == learning_rate(3, 40, 1e-3, 0.32) > small
    assert smaller == pytest.approx(small / 2)
    assert learning_rate(3, 40, 1e-3, -1e-9) == 0.0  # rounding of a divergence of zero


def values(layers: TrainedLayers) -> list[float]:
    return [float(layers[index]["w"]) for index in range(3)]


def change_all(layers: TrainedLayers) -> None:
    for index in reversed(range(3)):
        layers.change(index, {"w": layers[index]["w"] + 10})
    layers.advance()


@pytest.mark.parametrize(("in_memory", "saved"), [(True, 2), (False, 3)])
def test_the_last_step_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool, saved: int) -> None:
    """In memory they are saved now and then, in files with each step; what was begun behind it is forgotten."""
    monkeypatch.setattr(layers_module, "_SAVE_EVERY", 2)
    layers = TrainedLayers(tmp_path, 3, in_memory)
    assert layers.step is None
    layers.begin({"w": torch.tensor(float(index))} for index in range(3))
    for step in range(4):
        assert (layers.step, values(layers)) == (step, [10.0 * step + index for index in range(3)])
        if step < 3:
            change_all(layers)
    layers.change(2, {"w": torch.tensor(99.0)})  # and then the process ends
    for kept_in_memory in (True, False):
        again = TrainedLayers(tmp_path, 3, kept_in_memory)
        assert (again.step, values(again)) == (saved, [10.0 * saved + index for index in range(3)])
    change_all(again)
    assert (again.step, values(again)[0]) == (saved + 1, 10.0 * saved + 10)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "STEP_TOKENS", 150)
    monkeypatch.setattr(texts_module, "_GROUP_TOKENS", 64)


def steps_of(texts: Sequence[tuple[list[int], float]], batch_tokens: int = 64) -> list[TrainingStep]:
    return training_steps(texts, Compute(batch_tokens=batch_tokens))


def rows_of(step: TrainingStep) -> list[list[int]]:
    return [
        ids[real].tolist() for batch in step.batches for ids, real in zip(batch.input_ids, batch.real, strict=True)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 32, 48, 4096])
def test_a_pass_shows_every_text_once_and_neither_order_nor_batches_change_the_steps(batch_tokens: int) -> None:
    texts = random_token_ids(40)
    expected = list(map(rows_of, steps_of([(ids, 1.0) for ids in texts])))
    assert sorted(row for rows in expected for row in rows) == sorted(texts)
    tokens = [sum(map(len, rows)) for rows in expected]
    assert len(tokens) > 3
    assert max(tokens) <= 150
    assert min(tokens[:-1]) > 150 - 64  # a batch has 64 positions
    shuffled = random.Random(1).sample(texts, len(texts))
    steps = steps_of([(ids, 1.0) for ids in shuffled], batch_tokens)
    assert list(map(rows_of, steps)) == expected
    by_index = {index: batch for step in steps for index, batch in zip(step.batch_indices, step.batches, strict=True)}
    assert sorted(by_index) == list(range(len(by_index)))
    inputs = [pair for _, rows in sorted(by_index.items()) for pair in zip(rows.input_ids, rows.real, strict=True)]
    assert [ids[real].tolist() for ids, real in inputs] == sorted(texts, key=lambda ids: (len(ids), ids))
    numbers = [number_of_steps(passes, 7) for passes in (1.0, 0.5, 2.0, 0.001)]
    assert numbers == [7, 4, 14, 1]


def test_tokens_count_by_the_probability_of_their_task_and_sum_to_one() -> None:
    one, two = ([index, 5, 6] for index in (1, 2))
    (step,) = steps_of([(one, 0.3), (two, 0.1)])
    weights = torch.cat(step.weights).tolist()
    assert sum(weights) == pytest.approx(1.0)
    weight_of_row = dict(zip((row[0] for row in rows_of(step)), (weights[0], weights[3]), strict=True))
    assert weight_of_row[1] == pytest.approx(3 * weight_of_row[2])
