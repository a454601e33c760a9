"""A model is written as one file, read back as the same weights, and nothing is left of a file that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.chosen import OF_EACH_FAMILY
from support.formats.gguf import GGUF_VARIATIONS, GgufModel
from support.product import StoredForm, open_source, read_spec
from support.uneven import uneven_values
from support.variations import VARIATIONS, micro_config

from converters.gguf import GgufFormat
from converters.gguf.choice import choose_architecture, refusal
from converters.gguf.folding import Folding
from converters.gguf.orders import Orders
from seap_export.errors import InputError
from seap_export.model.families import Attention, model_spec
from seap_export.model.sources.open import open_gguf

Write = Callable[..., GgufModel]
_PLAIN = {"attention_bias": False, "tie_word_embeddings": False}


def test_the_last_norm_takes_back_from_a_tied_head_what_the_embedding_is_multiplied_by() -> None:
    spec = model_spec(micro_config(**uneven_values("granite-all")))
    folding = Folding.of(choose_architecture(spec), spec)
    assert folding.factor("embed_tokens") == spec.block.embedding_multiplier == 3.0
    assert folding.factor("embed_tokens") * folding.factor("norm") == pytest.approx(spec.block.logits_multiplier)


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
def test_weights_are_read_back(write: Write, variation: str) -> None:
    if refusal(model_spec(micro_config(**VARIATIONS[variation]))):
        pytest.skip("llama.cpp cannot compute it; the test of its runner says why")
    made = write(**VARIATIONS[variation])
    assert made.complaints() == []
    stored = load_file(made.source / "model.safetensors")
    read = made.format.weights(made.folder, made.spec).read(stored)
    assert read.keys() == stored.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(read[name], tensor, rtol=2e-7, atol=2e-7)
    assert made.file.stat().st_size == pytest.approx(made.format.size(made.spec), rel=0.03)


@pytest.mark.parametrize(
    ("variation", "values"),
    [("llama-biases", {}), ("qwen2", {}), ("ernie4_5", {}), ("qwen3", {"biases": False, "tie_word_embeddings": True})],
)
def test_uneven_layers_make_a_round_trip_through_the_reader_of_gguf_files(
    write: Write, variation: str, values: dict[str, bool]
) -> None:
    made = write(**uneven_values(variation, **values))
    assert made.complaints() == []
    source = open_gguf(made.file)
    assert source.spec.layers == made.spec.layers
    assert source.spec.family == made.spec.family
    for layer in range(len(made.spec.layers)):
        tensors = source.read_layer(layer)
        assert {name: tuple(stored.shape) for name, stored in tensors.items()} == made.spec.layer_tensors(layer)
        stored = load_file(made.source / "model.safetensors")
        for name, tensor in tensors.items():
            assert torch.equal(tensor, stored[name]), name
    with pytest.raises(InputError, match="already pruned"):
        open_source(str(made.file))


#: What the reader knows and llama.cpp does not compute: windows in a small EXAONE, and yarn with limits of its own.
NOT_COMPUTED = ("exaone4-window", "llama-yarn", "smollm3-yarn")


@pytest.mark.parametrize("variation", [name for name in GGUF_VARIATIONS if name not in NOT_COMPUTED])
def test_a_dense_file_is_opened_as_the_same_model(write: Write, variation: str) -> None:
    made = write(**GGUF_VARIATIONS[variation])
    source = open_source(str(made.file))
    assert source.spec.block == made.spec.block
    for layer, expected in zip(source.spec.layers, made.spec.layers, strict=True):
        assert (layer[Attention].rope is None) == (expected[Attention].rope is None)
        assert layer == expected.changed(rope=layer[Attention].rope)
    stored = load_file(made.source / "model.safetensors")
    form = StoredForm(made.spec)
    for layer in range(len(made.spec.layers)):
        for name, tensor in form.to_stored(source.read_layer(layer)).items():
            torch.testing.assert_close(tensor.float(), stored[name], rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize(
    ("variation", "values", "reason"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "divides weights by their sum"),
        ("olmoe", {**_PLAIN, "num_key_value_heads": 6}, None),
        (
            "olmoe",
            {**_PLAIN, "num_key_value_heads": 6, "norm_topk_prob": True},
            "does not divide weights by their sum",
        ),
        ("solar_open", _PLAIN, "another router"),
    ],
)
def test_a_mixture_that_is_routed_otherwise_is_refused(
    variation: str, values: dict[str, Any], reason: str | None
) -> None:
    spec = model_spec(micro_config(**{**VARIATIONS[variation], **values}))
    assert refusal(spec) is None if reason is None else reason in str(refusal(spec))


def test_a_refused_model_raises_the_reason(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        write(**uneven_values("gemma"))
    assert str(error.value) == GgufFormat("f32").refusal(read_spec(tmp_path / "hf"), tmp_path / "hf")


def test_value_heads_follow_each_other_as_llama_cpp_repeats_key_heads() -> None:
    """The first of each of three key heads, then the second: llama.cpp repeats queries and keys as a whole."""
    spec = model_spec(micro_config(**VARIATIONS["qwen3_5"]))
    orders = Orders(choose_architecture(spec), spec, 0)
    decays, rows = (orders.rows(name).tolist() for name in ("delta_a_log", "delta_qkv_proj"))  # type: ignore[union-attr]
    columns = orders.columns("delta_out_proj")
    assert columns is not None
    assert decays == [0, 2, 4, 1, 3, 5]
    assert rows == [*range(96), *(96 + columns).tolist()]  # queries and keys as they are
    assert columns[::16].tolist() == [0, 32, 64, 16, 48, 80]
