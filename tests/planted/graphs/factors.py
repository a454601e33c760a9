"""Wrong multipliers, soft caps, scales of scores and activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from planted.fault import Fault, numeric, structural
from planted.graphs.edits import ATTENTION, all_of, attributes, becomes, constant, left_out, scaled
from planted.graphs.graph import Graph

from converters.onnx.graph.graph import MS_DOMAIN

_ROOT = 96**0.5
_CAPPED = "lm_head.capped"


def _whole_sum_multiplied(graph: Graph) -> None:
    """The multiplier is on the stream as well."""
    norm = graph.node("layers.1.post_attention_layernorm")
    factor = graph.node("layers.1.self_attn.multiplied").input[1]
    norm.input[1] = graph.before(norm, "Mul", [norm.input[1], factor])


def _bias_not_multiplied(graph: Graph) -> None:
    """The bias of down_proj is added behind the multiplier."""
    graph.node("layers.1.mlp.multiplied").input[0] = "layers.1.mlp.down_proj.output"
    graph.node("layers.2.input_layernorm").input.append("model.layers.1.mlp.down_proj.bias")


def _cut(graph: Graph) -> None:
    bounds = [graph.constant(bound, np.float32) for bound in (-8.0, 8.0)]
    becomes(_CAPPED, "Clip", ["lm_head.output", *bounds])(graph)


def _multipliers() -> Iterator[Fault]:
    embedding, attention, mlp = "embed_tokens.multiplied", "layers.1.self_attn.multiplied", "layers.2.mlp.multiplied"
    yield numeric("embedding multiplier off by 2 %", "gemma3", scaled(f"float_{_ROOT!r}", 1.02), layer=None)
    yield numeric("embedding multiplier left out", "gemma3", left_out(embedding), layer=None)
    yield numeric("embedding multiplier in bfloat16", "gemma3", constant(embedding, 1, 9.8125), layer=None)
    yield numeric("embedding multiplier left out, standard", "gemma2 standard", left_out(embedding), layer=None)
    yield numeric("embedding multiplier off by 1 %, granite", "granite", scaled("float_3.0"), layer=None)
    yield numeric("residual multiplier off by 1 %", "granite", scaled("float_0.4"), layer=0)
    yield numeric("residual multiplier of attention left out", "granite", left_out(attention), layer=1)
    yield numeric("residual multiplier of an MLP left out", "granite", left_out(mlp), layer=2)
    yield numeric("residual multiplier inverted", "granite", constant(mlp, 1, 2.5), layer=2)
    yield numeric("residual multiplier on the stream", "granite", _whole_sum_multiplied, layer=1)
    yield numeric("residual multiplier not on the bias", "granite", _bias_not_multiplied, layer=1)
    yield numeric("logits multiplier off by 1 %", "granite", scaled("float_0.5"), layer=None)
    yield numeric("logits multiplier left out", "granite", left_out("norm.multiplied"), layer=None)
    yield numeric("logits multiplied and not divided", "granite", constant("norm.multiplied", 1, 2.0), layer=None)
    yield numeric("embedding multiplier left out, fp16", "granite half", left_out(embedding), layer=None)
    yield numeric("embedding multiplier off by 1 %, fp16", "granite half", scaled("float16_3.0"), layer=None)
    yield numeric("residual multiplier left out, fp16", "granite half", left_out(attention), layer=1)
    yield numeric("logits multiplier left out, fp16", "granite half", left_out("norm.multiplied"), layer=None)


def _soft_caps() -> Iterator[Fault]:
    bounds = all_of(constant(f"{_CAPPED}.ratio", 1, 9.0), constant(_CAPPED, 1, 9.0))
    first, second = ATTENTION.format(1), ATTENTION.format(2)
    for base in ("gemma3", "gemma2 standard"):
        whole = becomes(_CAPPED, "Identity", ["lm_head.output"])
        yield numeric(f"soft cap of logits off by 1 %, {base}", base, scaled("float_8.0"), layer=None)
        yield numeric(f"soft cap of logits left out, {base}", base, whole, layer=None)
        yield numeric(f"soft cap of logits changed, {base}", base, bounds, layer=None)
    yield numeric("logits cut, not capped", "gemma2", _cut, layer=None)
    yield numeric("soft cap of scores changed", "gemma2", attributes(first, softcap=2.1), layer=1)
    yield numeric("soft cap of scores left out", "gemma2", attributes(second, softcap=0.0), layer=2)
    yield numeric("soft cap of logits for that of scores", "gemma2", attributes(first, softcap=8.0), layer=1)
    yield numeric(
        "soft cap of scores changed, standard",
        "gemma2 standard",
        all_of(constant(f"{first}.capped.ratio", 1, 2.1), constant(f"{first}.capped", 1, 2.1)),
        layer=1,
    )
    yield numeric(
        "soft cap of scores left out, standard",
        "gemma2 standard",
        becomes(f"{second}.capped", "Identity", [f"{second}.float32.output"]),
        layer=2,
    )
    # as ONNX Runtime's Attention had it up to 1.24
    yield numeric("hidden keys are capped too", "gemma2 standard", constant(f"{first}.scores", 2, -2.0), layer=1)


def _scores() -> Iterator[Fault]:
    every = all_of(*(attributes(ATTENTION.format(layer), scale=0.25) for layer in range(3)))
    yield numeric("scale of the head size", "gemma3", every, layer=0)
    yield numeric("scale of the head size in a layer", "gemma2", attributes(ATTENTION.format(1), scale=0.25), layer=1)
    yield numeric(
        "scale of the head size, standard",
        "gemma2 standard",
        constant(f"{ATTENTION.format(2)}.query.scaled", 1, 0.25),
        layer=2,
    )
    yield numeric("scale left out, standard", "gemma2 standard", left_out(f"{ATTENTION.format(1)}.query.scaled"), 1)
    yield numeric("attention multiplier left out", "granite", every, layer=0)
    yield numeric("attention multiplier left out, fp16", "granite half", every, layer=0)
    yield numeric("attention multiplier of a layer", "granite", attributes(ATTENTION.format(2), scale=0.22), layer=2)


def _activations() -> Iterator[Fault]:
    gelu, silu = "layers.{}.mlp.gelu_tanh", "layers.{}.mlp.silu"
    exact = {layer: becomes(gelu.format(layer), "Gelu") for layer in range(3)}
    sigmoid = {"op_type": "QuickGelu", "domain": MS_DOMAIN}
    yield structural("exact gelu in a layer", "gemma3", exact[1])
    yield structural("exact gelu", "gemma2", all_of(*exact.values()))
    yield structural("exact gelu, standard", "gemma2 standard", exact[2])
    yield numeric("silu instead of gelu", "gemma3", becomes(gelu.format(2), alpha=1.0, **sigmoid), layer=2)
    yield numeric("gelu by a sigmoid", "gemma2", becomes(gelu.format(1), alpha=1.702, **sigmoid), layer=1)
    yield numeric("gelu instead of silu", "phi3", becomes(silu.format(1), "FastGelu", domain=MS_DOMAIN), layer=1)
    yield numeric("gelu instead of silu, int4", "glm4", becomes(silu.format(0), "Gelu"), layer=0)
    yield numeric(
        "gelu instead of silu, standard",
        "exaone4",
        becomes(silu.format(2), "Gelu", ["layers.2.mlp.gate_proj.output"], approximate="tanh"),
        layer=2,
    )


FAULTS: tuple[Fault, ...] = (*_multipliers(), *_soft_caps(), *_scores(), *_activations())
