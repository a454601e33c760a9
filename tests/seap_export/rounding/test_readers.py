"""What the projections at the start of a sublayer are rounded by, against sums over all tokens at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import DecoderLayer, HiddenStates, length_buckets

from seap_export.families import Experts
from seap_export.layers.sublayers.experts import router_weights
from seap_export.rounding import readers as readers_module
from seap_export.rounding.readers import Readers


@pytest.mark.parametrize("without", [None, 2])
@torch.no_grad()
def test_each_expert_counts_its_tokens_by_the_square_of_the_router_s_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: int | None
) -> None:
    """And as many of all tokens as there are channels; if it has no tokens, these alone."""
    source = micro_source(tmp_path / "m", "mixtral")
    batches = length_buckets(random_token_ids(20, longest=30), 128)
    floats, rounded = (HiddenStates.embedded(source.spec, source.read_embedding(), batches) for _ in range(2))
    for number in range(len(batches)):
        rounded.streams[number] = rounded.streams[number] * 1.25 + 0.01
    experts = source.spec.layers[0][Experts]
    layer = DecoderLayer(source.spec, 0, source.read_layer(0), only=Experts.output)
    x, y = (layer.read(Experts.output, torch.cat(list(one.streams))) for one in (rounded, floats))

    def routing(*operands: Any) -> torch.Tensor:
        shares = router_weights(*operands)
        return shares if without is None else shares.index_fill(1, torch.tensor([without]), 0.0)

    monkeypatch.setattr(readers_module, "router_weights", routing)
    weights = [torch.linspace(0.5, 1.5, batch.num_tokens) for batch in batches]
    counts = routing(layer, experts, torch.cat(list(rounded.streams))).square() * torch.cat(weights)[:, None]
    readers = Readers(layer, Experts.output, rounded, floats, weights, 77.0)
    for expert, part in enumerate(readers.sums()):
        assert part.rows == experts.of_expert(expert)
        count, all_alike = counts[:, expert].double(), torch.cat(weights).double()
        if count.sum() == 0.0:
            assert (expert, part.tokens) == (without, 77.0)
            count = all_alike
        else:
            mean = count.square().sum() / count.sum()
            assert part.tokens == pytest.approx(float(count.sum() / mean) + x.shape[1])
            count = count + all_alike / all_alike.sum() * mean * x.shape[1]
        share = count[:, None] / count.sum()
        mean_x, mean_y = ((share * one).sum(0) for one in (x.double(), y.double()))
        torch.testing.assert_close(part.sums.mean(), mean_x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.sums.target_mean(), mean_y, rtol=1e-4, atol=1e-5)
        for actual, left, right in (
            (part.sums.covariance(), x.double() - mean_x, x.double() - mean_x),
            (part.sums.cross_covariance(), y.double() - mean_y, x.double() - mean_x),
        ):
            torch.testing.assert_close(actual, (share * left).T @ right, rtol=1e-4, atol=1e-4)
    assert ((counts.sum(0) == 0.0).nonzero().flatten().tolist()) == ([] if without is None else [without])
