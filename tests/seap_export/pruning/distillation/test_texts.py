"""A pass shows every text once, in steps that do not depend on the order of the texts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from support.corpora import random_token_ids
from support.product import Compute

from seap_export.pruning.distillation import texts as texts_module
from seap_export.pruning.distillation.texts import TrainingStep, number_of_steps, training_steps


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
