"""A mixture's statistics are those of all its tokens, each counted by its task's weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.calibration import mixture_of
from support.corpora import random_token_ids
from support.models import micro_source, projection_inputs, transformers_model
from support.product import OUTPUTS

from seap_export.errors import InputError
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import FRESH_WEIGHT, TaskMixture

#: Of different sizes, and with one text in common.
TASKS = {"one": [[5, 6, 7], *random_token_ids(4, seed=1)], "two": [[5, 6, 7], *random_token_ids(15, seed=2)]}
WEIGHTS = {"one": 3.0, "two": 0.5}


def test_moments_and_covariances_are_those_of_the_weighted_tokens(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    mixture = mixture_of(source, tmp_path / "statistics", TASKS, **WEIGHTS)
    model = transformers_model(tmp_path / "model")
    tokens = {task: sum(map(len, texts)) for task, texts in TASKS.items()}
    seen = {task: projection_inputs(model, texts) for task, texts in TASKS.items()}
    weights = torch.cat(
        [torch.full((tokens[task],), WEIGHTS[task] / tokens[task], dtype=torch.float64) for task in TASKS]
    )
    weights = (weights / weights.sum()).unsqueeze(1)
    assert mixture.num_tokens == sum(tokens.values())
    for index in range(3):
        for output in OUTPUTS:
            values = torch.cat([seen[task][index][output] for task in TASKS])
            mean = (weights * values).sum(0)
            expected = ((values - mean) * weights).T @ (values - mean)
            sublayer, spread = mixture.layer(index)[output], expected.diagonal().sqrt()
            assert sublayer.count == mixture.num_tokens
            assert ((sublayer.mean - mean).abs() <= 1e-5 * spread).all()
            torch.testing.assert_close(sublayer.variance, expected.diagonal(), rtol=2e-5, atol=0.0)
            covariance = mixture.covariance(index, output)
            assert ((covariance - expected).abs() <= 1e-5 * torch.outer(spread, spread)).all()
    one, two = (mixture.calibrations[task].sensitivity() for task in TASKS)
    torch.testing.assert_close(mixture.sensitivity(), (3.0 * one + 0.5 * two) / 3.5, rtol=1e-12, atol=0.0)
    assert not torch.allclose(one, two)
    # the first tokens keep the weights of the tasks: 12 of the first one, 2 of the second
    few = mixture.of_first_tokens(14)
    texts = few.token_ids()
    assert few.num_tokens == sum(len(ids) for ids, _ in texts) == 14
    assert texts[-1][0] == TASKS["two"][0][:2]
    assert [token for ids, _ in texts[:-1] for token in ids] == [token for ids in TASKS["one"] for token in ids][:12]
    assert sum(len(ids) * each for ids, each in texts[:-1]) == pytest.approx(3.0 / 3.5)
    assert few.effective_tokens < mixture.effective_tokens
    assert mixture.of_first_tokens(10**6).token_ids() == mixture.token_ids()


def test_fresh_texts_count_less_than_calibration_texts(
    tmp_path: Path, random_calibration: Callable[..., Calibration]
) -> None:
    source = micro_source(tmp_path / "model")
    calibrations = {task: random_calibration(source, task) for task in TASKS}
    mixture, fresh = TaskMixture("mix", WEIGHTS, calibrations), [[1, 2, 3], [4, 5]]
    texts, more = mixture.token_ids(), mixture.with_fresh({"two": fresh})
    assert [ids for ids, _ in more.token_ids()] == [ids for ids, _ in texts] + fresh
    assert more.num_tokens == mixture.num_tokens + 5
    weights = torch.cat([torch.full((len(ids),), each, dtype=torch.float64) for ids, each in more.token_ids()])
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights.square().sum()) == pytest.approx(1.0 / more.effective_tokens)
    assert more.token_ids()[-1][1] == pytest.approx(FRESH_WEIGHT * more.token_ids()[-3][1])


def test_tokens_of_small_weight_hardly_count_and_other_models_not_at_all(
    tmp_path: Path, random_calibration: Callable[..., Calibration]
) -> None:
    source = micro_source(tmp_path / "model")
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(TASKS)}
    number = calibrations["two"].record.num_tokens
    assert number == calibrations["one"].record.num_tokens

    def effective(**weights: float) -> float:
        return TaskMixture("mix", weights, calibrations).effective_tokens

    assert effective(one=1.0) == pytest.approx(number)
    assert effective(one=1.0, two=1.0) == pytest.approx(2 * number)
    assert effective(one=3.0, two=1.0) == pytest.approx(16 / 10 * number)
    assert effective(one=1.0, two=1e-6) == pytest.approx(number, rel=1e-5)
    calibrations["two"] = random_calibration(micro_source(tmp_path / "two", "qwen2"), "two")
    with pytest.raises(InputError, match=r"'mix'.* different models"):
        effective(one=1.0, two=1.0)
