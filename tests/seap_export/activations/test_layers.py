"""A layer runs in two halves as transformers runs it whole, and gives its weights back."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from calibrated import load, micro_plan, micro_source, random_texts
from micro import VARIATIONS
from seap_export.activations.layers import HALVES, LayerRunner, embed
from torch import nn

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.layers.batches import length_buckets
from seap_export.shrink.config import shrunk_config
from seap_export.shrink.layer import shrink_layer


@torch.no_grad()
@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_halves_make_up_the_layers(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    runner = LayerRunner(source.config, source.spec)
    batches = length_buckets(random_texts(4), 4096)
    streams = embed(source.read_outer("embed_tokens"), batches)
    for index in range(3):
        with runner.layer(index, source.read_layer(index)) as layer:
            for half in HALVES:
                for stream in streams:
                    stream += layer.projections[half](layer.channels(half, stream))
    model = load(tmp_path / "model")
    for batch, stream in zip(batches, streams, strict=True):
        for ids, real, own in zip(batch.input_ids, batch.real, stream, strict=True):
            expected = model.model(ids[real][None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(model.model.norm(own[real]), expected, rtol=1e-4, atol=1e-4)


def devices(modules: Iterable[nn.Module]) -> set[str]:
    return {parameter.device.type for module in modules for parameter in module.parameters()}


def test_a_layer_s_weights_are_given_back_even_after_an_error(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    runner = LayerRunner(source.config, source.spec)
    for _ in range(2):  # the layer can be filled again
        with suppress(InterruptedError), runner.layer(1, source.read_layer(1)) as layer:
            modules = (layer.attention, layer.mlp, layer.attention_norm, *layer.projections.values())
            assert devices(modules) == {"cpu"}
            raise InterruptedError
        assert devices(modules) == {"meta"}


@torch.no_grad()
@pytest.mark.parametrize("variation", VARIATIONS)
def test_layers_of_a_shrunk_model_have_their_own_shapes(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    plan = micro_plan(source, "none")
    spec = plan.shrunk_spec(source.spec)
    runner = LayerRunner(shrunk_config(source, spec, "per-layer"), spec)
    hidden = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(0))
    for index in range(3):
        shrunk = shrink_layer(source.read_layer(index), source.spec, index, plan.layers[index])
        with runner.layer(index, shrunk) as layer:
            for half in HALVES:
                assert layer.channels(half, hidden).shape[2] == spec.projection_shape(half, index)[1]
