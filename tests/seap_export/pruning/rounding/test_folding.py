"""Factors that move between weights leave what a model computes alone, and take the unevenness out of its inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.chosen import OF_EACH_FAMILY
from support.models import micro_source, transformers_model
from support.product import StoredForm

from seap_export.model.families import Attention, Experts, Mlp, ModelSpec, names
from seap_export.pruning.rounding.folding import folded_channels, folded_norm, norm_readers

_IDS = torch.arange(3, 23).reshape(2, 10)


def folded(spec: ModelSpec, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What differs in the whole model, with factors for channels of very different sizes."""
    generator, changed, norms = torch.Generator().manual_seed(0), dict[str, torch.Tensor](), set[tuple[int, str]]()
    for index, layer in enumerate(spec.layers):
        for sublayer in layer.sublayers:
            sizes = torch.rand(max(spec.hidden_size, sublayer.channels), generator=generator).mul(4).exp()
            changed |= folded_channels(index, sublayer, {**tensors, **changed}, sizes[: sublayer.channels])
            if sublayer.norm_before is not None and (index, sublayer.norm_before) not in norms:
                norms.add((index, sublayer.norm_before))
                changed |= folded_norm(spec, index, sublayer, {**tensors, **changed}, sizes[: spec.hidden_size])
    return changed


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
@torch.no_grad()
def test_the_model_computes_the_same(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path, variation)
    spec, tensors = source.spec, source.reader.read(source.reader.shapes())
    changed = folded(spec, tensors)
    model = transformers_model(tmp_path)
    wanted = model(_IDS).logits
    model.load_state_dict(StoredForm(spec).to_stored({**tensors, **changed}), strict=False)
    assert (model(_IDS).logits - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    attention = [one for one in spec.all(Attention) if one.channel_rows is not None]
    if attention or any(mlp.is_gated for mlp in spec.all(Mlp)):
        assert changed


def test_values_and_weights_share_the_unevenness(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    spec, tensors = source.spec, source.reader.read(source.reader.shapes())
    mlp, attention = spec.layers[1][Mlp], spec.layers[0][Attention]
    values = torch.rand(spec.hidden_size).mul(4).exp()
    changed = folded_norm(spec, 1, mlp, tensors, values)
    readers = [names.weight(projection, 1) for projection in ("gate_proj", "up_proj")]
    gain = names.tensor(mlp.norm_before or "", 1)
    assert changed.keys() == {gain, *readers}
    left = (values * changed[gain] / tensors[gain]).log()
    before, after = (
        torch.stack([held[name].abs().amax(0) for name in readers]).amax(0).log() for held in (tensors, changed)
    )
    uneven = values.log() + before
    uneven -= uneven.mean()
    # what is left of the values' unevenness is what the weights have, to the same powers
    assert torch.allclose(left - left.mean(), 0.3 * uneven, atol=1e-3)
    assert torch.allclose(after - after.mean(), 0.7 * uneven, atol=1e-3)
    # values have one factor for all heads that read them
    assert attention.heads_per_group > 1
    changed = folded_channels(0, attention, tensors, torch.rand(attention.channels).mul(4).exp())
    name = names.weight("o_proj", 0)
    heads = (changed[name] / tensors[name]).mean(0).view(-1, attention.heads_per_group, attention.head_dim)
    assert torch.allclose(heads, heads[:, :1].expand_as(heads), rtol=1e-3)
    assert heads.std() > 0.1
    # what experts read stays
    spec = micro_source(tmp_path / "mixture", "qwen3_moe").spec
    experts = next(one for one in spec.layers[0].sublayers if isinstance(one, Experts))
    assert norm_readers(spec, 0, experts) == []
    assert norm_readers(spec, 0, spec.layers[0][Attention]) == ["q_proj", "k_proj", "v_proj"]
