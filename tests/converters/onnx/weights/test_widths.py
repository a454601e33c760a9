"""Sizes without a fast kernel on CUDA are named, with what helps."""

from __future__ import annotations

from typing import Any

import pytest
from support.product import OnnxForm, choose_precision
from support.variations import micro_config

from converters.onnx.weights.widths import slow_products, whole_blocks, width_warning
from seap_export.model.families import ModelSpec, model_spec


def spec_of(**values: Any) -> ModelSpec:
    """A model of sizes for which every kernel exists: 4 heads of 64 channels, 384 neurons, width 256."""
    shape = {"hidden_size": 256, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"intermediate_size": 384, "vocab_size": 512, "num_hidden_layers": 4}
    return model_spec(micro_config(**{"model_type": "llama", **shape, **sizes, **values}))


def with_neurons(*counts: int) -> ModelSpec:
    layers = spec_of().layers
    return spec_of().with_layers(
        tuple(layer.changed(intermediate_size=count) for layer, count in zip(layers, counts, strict=True))
    )


def form_of(name: Any, **values: Any) -> OnnxForm:
    return OnnxForm(choose_precision(name, "cuda", **values), provider="cuda")


def test_nothing_is_said_of_sizes_that_have_kernels_nor_elsewhere() -> None:
    for name, block_size in (("bf16", 64), ("int8", 32), ("int8", 128), ("int4", 64)):
        assert width_warning(spec_of(), form_of(name, block_size=block_size)) is None
    assert width_warning(spec_of(intermediate_size=100), OnnxForm(choose_precision("int8"))) is None
    assert width_warning(spec_of(vocab_size=515), form_of("int4", embeddings=False)) is None


def test_inputs_are_multiples_of_the_block_in_int8_and_of_8_in_int4() -> None:
    forms = form_of("fp16"), form_of("int4", block_size=128), form_of("int8"), form_of("int8", block_size=128)
    assert [*map(whole_blocks, forms), whole_blocks(OnnxForm(choose_precision("int8")))] == [1, 8, 32, 128, 1]


@pytest.mark.parametrize(
    ("spec", "form", "slow", "words"),
    [
        (
            with_neurons(368, 384, 368, 368),
            form_of("int8"),
            {"down_proj": [0, 2, 3]},
            ["int8 kernel for down_proj of layers 0, 2-3,", "multiples of 32;", "align is a multiple of 32"],
        ),
        (
            with_neurons(380, 384, 384, 384),
            form_of("int4"),
            {"gate_proj": [0], "up_proj": [0], "down_proj": [0]},
            ["int4", "gate_proj of layers 0, up_proj of layers 0, down_proj of layers 0", "multiple of 8"],
        ),
        (
            spec_of(head_dim=80, num_attention_heads=3, num_key_value_heads=3, vocab_size=515),
            form_of("int8"),
            {"o_proj": [0, 1, 2, 3], "lm_head": ()},
            ["o_proj of layers 0-3, lm_head", "use int4, and leave the embedding"],
        ),
        (
            spec_of(hidden_size=252, head_dim=64),
            form_of("int4", embeddings=False),
            {name: [0, 1, 2, 3] for name in spec_of().layers[0].projections},
            ["use fp16 or bf16"],
        ),
    ],
)  # fmt: skip
def test_what_has_no_kernel_and_what_helps(
    spec: ModelSpec, form: OnnxForm, slow: dict[str, Any], words: list[str]
) -> None:
    assert slow_products(spec, form) == slow
    warning = width_warning(spec, form)
    assert warning is not None
    assert "\n" not in warning
    assert [word for word in words if word not in warning] == []
