"""Wrong multipliers, soft caps, scales of scores and activations."""

from __future__ import annotations

from planted.fault import Fault, numeric, structural
from planted.graphs.edits import ATTENTION, all_of, attributes, becomes, constant, left_out, scaled

from converters.onnx.graph.graph import MS_DOMAIN

_FIRST = ATTENTION.format(1)
_SCALES = all_of(*(attributes(ATTENTION.format(layer), scale=0.25) for layer in range(3)))
FAULTS: tuple[Fault, ...] = (
    numeric("constant", "embedding multiplier off by 2 %", "gemma3", scaled(f"float_{96**0.5!r}", 1.02), layer=None),
    numeric("wiring", "residual multiplier left out", "granite", left_out("layers.1.self_attn.multiplied"), layer=1),
    numeric(
        "constant", "logits multiplied and not divided", "granite", constant("norm.multiplied", 1, 2.0), layer=None
    ),
    numeric("constant", "soft cap of logits off by 1 %", "gemma3", scaled("float_8.0"), layer=None),
    # as ONNX Runtime's Attention had it up to 1.24
    numeric(
        "constant", "hidden keys are capped too", "gemma2 standard", constant(f"{_FIRST}.scores", 2, -2.0), layer=1
    ),
    numeric("attribute", "scale of the head size", "gemma3", _SCALES, layer=0),
    structural("attribute", "exact gelu in a layer", "gemma3", becomes("layers.1.mlp.gelu_tanh", "Gelu")),
    numeric(
        "attribute",
        "gelu instead of silu",
        "phi3",
        becomes("layers.1.mlp.silu", "FastGelu", domain=MS_DOMAIN),
        layer=1,
    ),
)
