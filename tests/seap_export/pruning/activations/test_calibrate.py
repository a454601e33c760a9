"""Calibration gives what transformers' own model has: moments and covariances text by text, and the sensitivity.

The sensitivity is that of autograd through the whole model, with the same labels drawn.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import calibration_in, statistics_in
from support.chosen import VARIED_JOINT
from support.corpora import Texts, random_token_ids
from support.models import decoder_layers, micro_source, projection_inputs, projection_paths, transformers_model
from support.product import Batch, Calibration, Projection, Source, length_buckets
from transformers import PreTrainedModel

from seap_export.model.families import LayerSpec
from seap_export.model.layers.working_memory import LOGIT_TOKENS
from seap_export.pruning.activations.sensitivity import SENSITIVITY_TOKENS, sensitivity_texts

POST_NORMS: dict[Projection, str] = {
    "o_proj": "post_self_attn_layernorm",
    "down_proj": "post_mlp_layernorm",
    "out_proj": "post_self_attn_layernorm",
    "delta_out_proj": "post_self_attn_layernorm",
    "mamba_out_proj": "post_self_attn_layernorm",
    "layer_input_proj": "post_layer_input_norm",
}


def drawn_labels(model: PreTrainedModel, batch: Batch) -> list[torch.Tensor]:
    """The labels of each text of a batch, drawn as the module draws them: by blocks of its real tokens."""
    texts = [ids[real] for ids, real in zip(batch.input_ids, batch.real, strict=True)]
    with torch.no_grad():
        chances = torch.cat([model(ids[None]).logits[0].softmax(-1) for ids in texts])
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(part, 1, generator=generator)[:, 0] for part in chances.split(256)]
    return list(torch.cat(drawn).split([len(ids) for ids in texts]))


def stream_gradients(source: Source, model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sums over the text of d² |g|² after each sublayer of each layer; [layers, 2].

    g is the gradient of log p(labels), and d what the sublayer multiplies its output by, a norm's gain left out.
    """
    family, config = source.spec.family, model.config
    streams: dict[tuple[int, Projection], torch.Tensor] = {}
    products: dict[tuple[int, Projection], torch.Tensor] = {}

    def note(sublayer: tuple[int, Projection], stream: torch.Tensor) -> None:
        stream.retain_grad()
        streams[sublayer] = stream

    def note_last(sublayer: tuple[int, Projection], _: Any, args: Any, output: Any) -> None:
        note(sublayer, output[0] if isinstance(output, tuple) else output)

    hooks = []
    for index, layer in enumerate(decoder_layers(model)):
        into_mlp = "post_attention_layernorm" if "post_attention_layernorm" in family.names else None
        *others, last = source.spec.layers[index].outputs
        if source.spec.layer_inputs:
            note_down = partial(lambda sublayer, _, args: note(sublayer, args[0]), (index, others.pop()))
            hooks.append(layer.per_layer_input_gate.register_forward_pre_hook(note_down))
        if others:
            middle = layer.mlp if into_mlp is None else model.get_submodule(family.module(into_mlp, index))
            note_middle = partial(lambda sublayer, _, args: note(sublayer, args[0]), (index, others[-1]))
            hooks.append(middle.register_forward_pre_hook(note_middle))
        hooks.append(layer.register_forward_hook(partial(note_last, (index, last))))
        for output in source.spec.layers[index].outputs:
            note_product = partial(
                lambda key, _, args, product: products.update({key: product.detach()}), (index, output)
            )
            hooks.append(layer.get_submodule(projection_paths(model)[output]).register_forward_hook(note_product))
    log_p = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
    log_p.gather(1, labels[:, None]).sum().backward()
    for hook in hooks:
        hook.remove()

    def square(sublayer: tuple[int, Projection]) -> float:
        layer, output = source.spec.layers[sublayer[0]], sublayer[1]
        factor = torch.full_like(products[sublayer][..., :1], layer.named(output).multiplier)
        if POST_NORMS.get(output) in family.names:
            factor = factor / (products[sublayer].square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        gradient = streams[sublayer[0], summed_at(layer, output)].grad
        assert gradient is not None
        if layer.named(output).scales_stream:  # behind the sum
            gradient = gradient * decoder_layers(model)[sublayer[0]].layer_scalar
        return float((factor * gradient).double().square().sum())

    return torch.tensor(
        [[square((index, output)) for output in layer.outputs] for index, layer in enumerate(source.spec.layers)],
        dtype=torch.float64,
    )


def summed_at(layer: LayerSpec, output: Projection) -> Projection:
    """The last sublayer that adds to the same sum, as those side by side do."""
    while layer.is_read_again(output):
        output = layer.outputs[layer.outputs.index(output) + 1]
    return output


def expected_sensitivity(source: Source, model: PreTrainedModel, texts: Texts) -> torch.Tensor:
    """Text by text, unpadded."""
    total = torch.zeros(3, max(len(layer.sublayers) for layer in source.spec.layers), dtype=torch.float64)
    for batch in length_buckets(texts, SENSITIVITY_TOKENS):
        labels = drawn_labels(model, batch)
        for ids, real, row_labels in zip(batch.input_ids, batch.real, labels, strict=True):
            total += stream_gradients(source, model, ids[real], row_labels)
    return total / (sum(map(len, texts)) * model.config.hidden_size)


def calibrated(folder: Path, source: Source, texts: Texts, max_batch_tokens: int) -> Calibration:
    return calibration_in(statistics_in(folder, source, texts, max_batch_tokens), source, "task", texts)


def assert_statistics_of(calibration: Calibration, model: PreTrainedModel, texts: Texts, tolerance: float) -> None:
    """Against two passes over all tokens in float64."""
    inputs = projection_inputs(model, texts)
    assert len(inputs) == 3
    for index, layer in enumerate(inputs):
        assert calibration.layer(index).keys() == layer.keys()
        for output, moments in calibration.layer(index).items():
            values, found = layer[output], calibration.covariance(index, output)
            mean = values.mean(0)
            covariance = (values - mean).T @ (values - mean) / len(values)
            spread = covariance.diagonal().sqrt()
            assert moments.count == len(values)
            assert moments.mean.dtype == moments.variance.dtype == found.dtype == torch.float64
            assert ((moments.mean - mean).abs() <= tolerance * values.square().mean(0).sqrt()).all()
            torch.testing.assert_close(moments.variance, covariance.diagonal(), rtol=2 * tolerance, atol=0.0)
            assert ((found - covariance).abs() <= tolerance * torch.outer(spread, spread)).all()
            assert torch.equal(found, found.T)


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_it_is_what_transformers_model_has(tmp_path: Path, variation: str) -> None:
    source, texts = micro_source(tmp_path / "model", variation), random_token_ids(16)
    calibration, model = calibrated(tmp_path / "all", source, texts, 64), transformers_model(tmp_path / "model")
    # Neurons without a gate are often nearly 0 at all tokens, so that rounding is more of their variance.
    assert_statistics_of(calibration, model, texts, 1e-5 if source.spec.family.block.is_gated else 1e-4)
    actual = calibration.sensitivity()
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected_sensitivity(source, model, texts), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("variation", ["llama-gqa", "qwen2-window"])
def test_order_changes_nothing_but_the_first_texts_alone_give_the_sensitivity(tmp_path: Path, variation: str) -> None:
    """They have more tokens than logits fit in memory, and more than one batch."""
    source, texts = micro_source(tmp_path / "model", variation), random_token_ids(60)
    model, enough = transformers_model(tmp_path / "model"), sensitivity_texts(texts)
    assert sum(map(len, texts[: enough - 1])) < SENSITIVITY_TOKENS <= sum(map(len, texts[:enough]))
    batches = length_buckets(texts[:enough], SENSITIVITY_TOKENS)
    assert len(batches) > 1
    assert max(int(batch.real.sum()) for batch in batches) > LOGIT_TOKENS
    expected = expected_sensitivity(source, model, texts[:enough])
    for max_batch_tokens, ordered in ((1, texts), (40, texts[:enough] + texts[enough:][::-1])):
        calibration = calibrated(tmp_path / str(max_batch_tokens), source, ordered, max_batch_tokens)
        assert_statistics_of(calibration, model, texts, 1e-5)
        torch.testing.assert_close(calibration.sensitivity(), expected, rtol=1e-4, atol=0.0)
    shuffled = calibrated(tmp_path / "shuffled", source, random.Random(7).sample(texts, len(texts)), 4096)
    assert_statistics_of(shuffled, model, texts, 1e-5)
    assert not torch.allclose(shuffled.sensitivity(), expected, rtol=1e-3)
    assert sensitivity_texts([[1, 2], [3]]) == 2
    assert sensitivity_texts([[0] * SENSITIVITY_TOKENS, [1]]) == 1
    assert sensitivity_texts([[0] * (SENSITIVITY_TOKENS - 1), [1], [2]]) == 2
