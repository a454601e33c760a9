"""A layer's sublayers have the shapes of a shrunk layer, and write back what their norms and the multiplier say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.chosen import VARIED
from support.corpora import random_token_ids
from support.models import micro_source
from support.plans import micro_plan
from support.product import OUTPUTS, shrink_layer

from seap_export.model.families import names
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.widened import widened_product


@torch.no_grad()
@pytest.mark.parametrize("variation", VARIED)
def test_layers_of_a_shrunk_model_have_their_own_shapes(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    plan = micro_plan(source, "none")
    spec = plan.shrunk_spec(source.spec)
    (batch,) = length_buckets(random_token_ids(3), 4096)
    stream = torch.randn(int(batch.real.sum()), spec.width, generator=torch.Generator().manual_seed(0))
    for index in range(3):
        layer = DecoderLayer(
            spec, index, shrink_layer(source.read_layer(index), source.spec, index, plan.layers[index])
        )
        for output in spec.layers[index].outputs:
            parts, product = layer.channels_and_product(output, stream, batch)
            assert sum(part.shape[1] for part in parts) == spec.projection_shape(output, index)[1]
            assert product.shape == (len(stream), 96)


@pytest.mark.parametrize(
    ("variation", "has_norm", "multiplier"),
    [("llama-gqa", False, 1.0), ("granite-all", False, 0.4), ("glm4", True, 1.0), ("exaone4", True, 1.0)],
)
@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_written_is_the_factor_times_the_gain_times_the_product(
    tmp_path: Path, variation: str, has_norm: bool, multiplier: float, output: Projection
) -> None:
    source = micro_source(tmp_path / "model", variation)
    tensors = source.read_layer(1)
    layer = DecoderLayer(source.spec, 1, tensors)
    norm = {"o_proj": "post_self_attn_layernorm", "down_proj": "post_mlp_layernorm"}[output]
    gain = layer.gain(output)
    assert layer.spec.named(output).multiplier == multiplier
    assert (gain is not None) is has_norm
    if gain is not None:
        assert torch.equal(gain, tensors[names.tensor(norm, 1)].float())
    product = torch.randn(7, 96, generator=torch.Generator().manual_seed(0))
    expected = layer.factor(output, product) * (1.0 if gain is None else gain) * product
    torch.testing.assert_close(layer.update(output, product), expected)
    root = product.square().mean(-1).add(source.spec.norm.epsilon).sqrt()
    torch.testing.assert_close(
        layer.factor(output, product)[:, 0], multiplier / root if has_norm else 0 * root + multiplier
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_run_in_float32(tmp_path: Path, dtype: str) -> None:
    source = micro_source(tmp_path / "model", "glm4", dtype=dtype)
    layer = DecoderLayer(source.spec, 0, source.read_layer(0))
    (batch,) = length_buckets([[1, 2, 3]], 4096)
    assert layer.channels("o_proj", torch.ones(3, 96), batch).dtype == torch.float32


def test_the_gradient_of_a_product_with_half_precision_weights_is_that_of_one_in_float32() -> None:
    chance = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=chance) for shape in ((7, 5), (3, 5)))
    wanted, found = (x.clone().requires_grad_() for _ in range(2))
    (wanted @ weight.bfloat16().float().T).square().sum().backward()
    widened_product(found, weight.bfloat16(), None).square().sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)
