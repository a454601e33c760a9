"""A mixture of experts made of a dense model computes what that does, if all experts compute each token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import benchmarks
from benchmarks.talking_mixture import balanced_groups, fitted_router, write_mixture
from click.testing import CliRunner
from support.corpora import random_token_ids
from support.models import masked_logits, mean_divergence, micro_source, transformers_model


def divergence(folder: Path, per_token: int, steps: int) -> float:
    source = micro_source(folder / "dense", "llama-gqa")
    (folder / "mixture").mkdir()
    write_mixture(source, folder / "mixture", random_token_ids(24), 4, per_token, steps)
    return mean_divergence(folder / "dense", folder / "mixture", random_token_ids())


def test_if_all_experts_compute_each_token_it_is_the_dense_model(tmp_path: Path) -> None:
    assert divergence(tmp_path, 4, 0) < 1e-6
    expected = masked_logits(transformers_model(tmp_path / "dense"))
    actual = masked_logits(transformers_model(tmp_path / "mixture"))
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-4 * float(expected.abs().max()))


def test_training_brings_a_mixture_of_fewer_experts_nearer_to_the_dense_model(tmp_path: Path) -> None:
    lost = {}
    for steps in (0, 2):
        (tmp_path / str(steps)).mkdir()
        lost[steps] = divergence(tmp_path / str(steps), 2, steps)
    assert 0.0 < lost[2] < lost[0]


@pytest.mark.parametrize("groups", [1, 3])
def test_groups_are_of_one_size_and_of_one_kind(groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(3, 20, generator=generator)
    features = kinds.repeat(4, 1) + 0.1 * torch.randn(12, 20, generator=generator)
    grouped = balanced_groups(features, groups)
    assert grouped.shape == (groups, 12 // groups)
    assert sorted(grouped.flatten().tolist()) == list(range(12))
    if groups == 3:
        assert all(len({vector % 3 for vector in group}) == 1 for group in grouped.tolist())


def test_a_router_is_sharper_than_the_energies_and_obeys_the_token_that_has_most() -> None:
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    energies = (0.5 * x[:, :4]).exp()
    weights = (x @ fitted_router(x, energies).T).softmax(1)
    best, wanted = weights.max(1), energies.max(1)
    assert (best.indices == wanted.indices).float().mean() > 0.9
    assert best.values.mean() > (wanted.values / energies.sum(1)).mean()
    rare = energies.sum(1).argmin()
    energies[rare] = torch.tensor([1e4, 1.0, 1.0, 1.0])
    assert (x[rare] @ fitted_router(x, energies).T).softmax(0)[0] > 0.9


def test_bad_input_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    done = CliRunner().invoke(benchmarks, ["talking_mixture", "./none", str(tmp_path / "out"), "--text", "a=a.txt"])
    assert (done.exit_code, done.output.count("\n"), done.output.startswith("Error: ./none: no such")) == (8, 1, True)
