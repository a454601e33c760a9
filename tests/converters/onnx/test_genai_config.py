"""What ONNX Runtime GenAI is told about a model."""

from __future__ import annotations

from typing import Any

import pytest

from converters.onnx.form import OnnxForm
from converters.onnx.genai_config import genai_config
from converters.onnx.precision import choose_precision
from seap_export.errors import InputError
from seap_export.model.families import model_spec

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 96,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip


def made(generation: dict[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    config = {**CONFIG, **extra}
    return genai_config(model_spec(config), config, generation)


def test_whole_config() -> None:
    assert made() == {
        "model": {
            "bos_token_id": 1, "context_length": 96, "eos_token_id": 2, "pad_token_id": 3, "type": "llama",
            "vocab_size": 128,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx", "head_size": 16, "hidden_size": 64, "num_attention_heads": 4,
                "num_hidden_layers": 3, "num_key_value_heads": 2,
                "inputs": {
                    "input_ids": "input_ids", "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits", "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "diversity_penalty": 0.0, "do_sample": False, "early_stopping": True, "length_penalty": 1.0,
            "max_length": 96, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1, "num_return_sequences": 1,
            "past_present_share_buffer": True, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 50,
            "top_p": 1.0,
        },
    }  # fmt: skip


def test_head_counts_are_the_largest_of_any_layer() -> None:
    layers = {"0": {"num_attention_heads": 3, "num_key_value_heads": 3}, "1": {"num_key_value_heads": 1}}
    decoder = made(model_type="seap_llama", per_layer_config=layers)["model"]["decoder"]
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"]) == (4, 3)


def test_generation_config_wins() -> None:
    generation = {"eos_token_id": [7, 8], "do_sample": True, "temperature": 0.6, "top_k": None, "bos_token_id": None}
    config = made(generation, pad_token_id=None)
    assert config["model"]["eos_token_id"] == [7, 8]
    assert config["model"]["pad_token_id"] == 7
    assert config["model"]["bos_token_id"] == 1
    assert config["search"]["do_sample"] is True
    assert config["search"]["temperature"] == 0.6
    assert config["search"]["top_k"] == 50
    assert made(bos_token_id=None)["model"]["bos_token_id"] == 2
    assert made(model_type="seap_hunyuan_v1_dense")["model"]["type"] == "hunyuandensev1"


def test_what_the_form_of_the_graph_adds() -> None:
    standard, rows = (
        genai_config(model_spec(CONFIG), CONFIG, None, form)
        for form in (OnnxForm(dialect="standard"), OnnxForm(choose_precision("w8a8")))
    )
    assert standard["search"]["past_present_share_buffer"] is False
    assert rows["model"]["decoder"]["session_options"]["session.x64quantprecision"] == "1"


def test_refuses_a_model_that_never_ends() -> None:
    for eos in (None, []):
        with pytest.raises(InputError, match="eos_token_id"):
            made(eos_token_id=eos)
