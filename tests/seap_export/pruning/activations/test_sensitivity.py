"""The sensitivity is that of autograd through transformers' whole model, with the same labels drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from support.calibration import calibration_in, statistics_in
from support.chosen import VARIED_JOINT
from support.corpora import random_token_ids
from support.models import decoder_layers, micro_source, projection_paths, transformers_model
from support.product import Batch, Projection, Source, length_buckets
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


def measured(source: Source, texts: Sequence[Sequence[int]], **options: int) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        return calibration_in(
            statistics_in(Path(folder), source, texts, **options), source, "task", texts
        ).sensitivity()


def drawn_labels(model: PreTrainedModel, batch: Batch) -> list[torch.Tensor]:
    """The labels of each text of a batch, drawn as the module draws them: by blocks of its real tokens."""
    texts = [ids[real] for ids, real in zip(batch.input_ids, batch.real, strict=True)]
    with torch.no_grad():
        chances = torch.cat([model(ids[None]).logits[0].softmax(-1) for ids in texts])
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(part, 1, generator=generator)[:, 0] for part in chances.split(256)]
    return list(torch.cat(drawn).split([len(ids) for ids in texts]))


def residual_gradients(
    source: Source, model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The sums over the text of d² |g|² after each sublayer of each layer; [layers, 2].

    g is the gradient of log p(labels), and d what the sublayer multiplies its output by, a norm's gain left out.
    """
    family, config = source.spec.family, model.config
    streams: dict[tuple[int, Projection], torch.Tensor] = {}
    products: dict[tuple[int, Projection], torch.Tensor] = {}

    def note(sublayer: tuple[int, Projection], stream: torch.Tensor) -> None:
        stream.retain_grad()
        streams[sublayer] = stream

    hooks = []
    for index, layer in enumerate(decoder_layers(model)):
        into_mlp = "post_attention_layernorm" if "post_attention_layernorm" in family.names else None
        *others, last = source.spec.layers[index].outputs
        if source.spec.layer_inputs:
            note_down = partial(lambda sublayer, _, args: note(sublayer, args[0]), (index, others.pop()))
            hooks.append(layer.per_layer_input_gate.register_forward_pre_hook(note_down))
        if others:
            middle = layer.mlp if into_mlp is None else model.get_submodule(family.module(into_mlp, index))
            hooks.append(
                middle.register_forward_pre_hook(lambda _, args, sublayer=(index, others[-1]): note(sublayer, args[0]))
            )
        hooks += [
            layer.register_forward_hook(
                lambda _, args, output, sublayer=(index, last): note(
                    sublayer, output[0] if isinstance(output, tuple) else output
                )
            )
        ]
        for sublayer in source.spec.layers[index].outputs:
            projection = layer.get_submodule(projection_paths(model)[sublayer])
            hooks.append(
                projection.register_forward_hook(
                    lambda _, args, output, key=(index, sublayer): products.__setitem__(key, output.detach())
                )
            )
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


def expected_sensitivity(source: Source, model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Text by text, unpadded."""
    total = torch.zeros(3, max(len(layer.sublayers) for layer in source.spec.layers), dtype=torch.float64)
    for batch in length_buckets(texts, SENSITIVITY_TOKENS):
        labels = drawn_labels(model, batch)
        for ids, real, row_labels in zip(batch.input_ids, batch.real, labels, strict=True):
            total += residual_gradients(source, model, ids[real], row_labels)
    return total / (sum(map(len, texts)) * model.config.hidden_size)


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_it_is_that_of_autograd_through_the_whole_model(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    texts = random_token_ids(16)
    actual = measured(source, texts)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(
        actual, expected_sensitivity(source, transformers_model(tmp_path / "model"), texts), rtol=1e-4, atol=0.0
    )


def test_only_the_first_texts_count(tmp_path: Path) -> None:
    """They have more tokens than logits fit in memory, and more than one batch."""
    source = micro_source(tmp_path / "model")
    texts = random_token_ids(60)
    enough = sensitivity_texts(texts)
    assert sum(map(len, texts[: enough - 1])) < SENSITIVITY_TOKENS <= sum(map(len, texts[:enough]))
    batches = length_buckets(texts[:enough], SENSITIVITY_TOKENS)
    assert len(batches) > 1
    assert max(int(batch.real.sum()) for batch in batches) > LOGIT_TOKENS
    expected = expected_sensitivity(source, transformers_model(tmp_path / "model"), texts[:enough])
    for others in (texts, texts[:enough] + random_token_ids(20, seed=5)):
        torch.testing.assert_close(measured(source, others), expected, rtol=1e-4, atol=0.0)
    assert not torch.allclose(measured(source, texts[1:]), expected, rtol=1e-3)
    assert sensitivity_texts([[1, 2], [3]]) == 2
    assert sensitivity_texts([[0] * SENSITIVITY_TOKENS, [1]]) == 1
    assert sensitivity_texts([[0] * (SENSITIVITY_TOKENS - 1), [1], [2]]) == 2
