"""Well-known checkpoints are accepted, and read as transformers reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from support.models import why_not_loaded
from support.product import portable_config
from support.stand_ins.families import COPIED, REMEMBERED
from transformers import AutoConfig

from seap_export.common.json_file import read_json
from seap_export.model.families import Attention, Mlp, ModelSpec, model_spec

CONFIGS = {**COPIED, **REMEMBERED}
_GEMMA_3 = {"windows": [512] * 5 + [None], "thetas": [1e4] * 5 + [1e6], "tied": True}
_GEMMA_3_4B = {**_GEMMA_3, "windows": [1024] * 5 + [None], "heads": (34, 8, 4, 256), "rotation": ("linear", 256)}
_GRANITE_4 = {"windows": [None], "thetas": [1e7], "tied": True}
_HUNYUAN = {"windows": [None], "thetas": [11158839.92507748], "rotation": ("default", 128), "tied": True}
_LLAMA_3_2 = {"heads": (16, 32, 8, 64), "thetas": [5e5], "rotation": ("llama3", 64), "tied": True}
#: What is expected of each; the number of parameters in billions, as the models' pages state it, of all.
EXPECTED: dict[str, dict[str, Any]] = {
    "google/gemma-2b": {"size": 2.51, "activation": "gelu_tanh", "factors": (2048**0.5, 1, 1, 1 / 16)},
    "google/gemma-2-2b-it": {"size": 2.61, "windows": [4096, None], "softcaps": (50, 30), "tied": True},
    "google/gemma-2-27b": {"size": 27.2, "windows": [4096, None], "factors": (4608**0.5, 1, 1, 1 / 12)},
    "google/gemma-3-270m": {"size": 0.268, **_GEMMA_3, "factors": (640**0.5, 1, 1, 1 / 16)},
    "google/gemma-3-1b-it": {"size": 1.0, **_GEMMA_3, "softcaps": (None, None)},
    "google/translategemma-4b-it": {"size": 3.88, **_GEMMA_3_4B},
    "google/gemma-3-4b-it": {"size": 3.88, **_GEMMA_3_4B},
    "unsloth/gemma-3-270m-it": {"size": 0.268, **_GEMMA_3},
    "meta-llama/Llama-3.2-1B": {"size": 1.24, **_LLAMA_3_2},
    "unsloth/Llama-3.2-1B": {"size": 1.24, **_LLAMA_3_2},
    "HuggingFaceTB/SmolLM2-135M": {"size": 0.135, "heads": (30, 9, 3, 64), "tied": True},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {"size": 1.71, "thetas": [1.3e5], "tied": True},
    "HuggingFaceTB/SmolLM3-3B": {"size": 3.08, "thetas": [5e6, 5e6, 5e6, None], "windows": [None], "tied": True},
    "Qwen/Qwen2-7B-Instruct": {"size": 7.62, "windows": [None], "tied": False},
    "Qwen/Qwen2.5-0.5B": {"size": 0.494, "windows": [None], "thetas": [1e6], "tied": True},
    "Qwen/Qwen3-0.6B": {"size": 0.596, "heads": (28, 16, 8, 128), "windows": [None], "tied": True},
    "microsoft/Phi-3-mini-4k-instruct": {"size": 3.82, "windows": [2047], "rotation": ("default", 96)},
    "microsoft/Phi-3.5-mini-instruct": {"size": 3.82, "windows": [262144], "rotation": ("longrope", 96)},
    "microsoft/Phi-4-mini-instruct": {"size": 3.84, "rotation": ("longrope", 96), "heads": (32, 24, 8, 128)},
    "microsoft/phi-4": {"size": 14.7, "windows": [None], "thetas": [2.5e5], "tied": False},
    "mistralai/Ministral-3-3B-Reasoning-2512": {"size": 3.43, "rotation": ("yarn", 128), "scaled": (0.1, 16384)},
    "mistralai/Mistral-7B-v0.1": {"size": 7.24, "windows": [4096], "thetas": [1e4], "tied": False},
    "tencent/Hy-MT2-7B": {"size": 7.5, **_HUNYUAN},
    "tencent/Hunyuan-0.5B-Instruct": {"size": 0.539, **_HUNYUAN},
    "baidu/ERNIE-4.5-0.3B-PT": {"size": 0.361, "thetas": [5e5], "tied": True},
    "LGAI-EXAONE/EXAONE-4.0-32B": {"size": 32.0, "windows": [4096] * 3 + [None], "thetas": [1e6] * 3 + [None]},
    "LGAI-EXAONE/EXAONE-4.0-1.2B": {"size": 1.28, "windows": [None], "thetas": [1e6], "tied": True},
    "ibm-granite/granite-3.3-2b-instruct": {"size": 2.53, "factors": (12, 0.22, 1 / 8, 1 / 64), "tied": True},
    "ibm-granite/granite-4.0-micro": {"size": 3.4, **_GRANITE_4, "factors": (12, 0.22, 0.1, 1 / 64)},
    "ibm-granite/granite-4.0-350m": {"size": 0.352, **_GRANITE_4, "factors": (12, 0.263, 0.25, 1 / 64)},
    "ibm-granite/granite-4.0-1b": {"size": 1.63, **_GRANITE_4, "factors": (12, 0.22, 1 / 8, 1 / 128)},
    "THUDM/GLM-4-9B-0414": {"size": 9.4, "rotation": ("default", 64), "windows": [None], "tied": False},
    "openai-community/gpt2": {"size": 0.124, "heads": (12, 12, 12, 64), "thetas": [None], "tied": True},
    "EleutherAI/gpt-neo-125m": {"size": 0.125, "windows": [None, 256], "factors": (1, 1, 1, 1), "tied": True},
    "EleutherAI/gpt-j-6b": {"size": 6.05, "rotation": ("default", 64), "activation": "gelu_tanh", "tied": False},
    "Salesforce/codegen-350M-mono": {"size": 0.357, "rotation": ("default", 32), "tied": False},
    "bigcode/starcoderbase-1b": {"size": 1.137, "heads": (24, 16, 1, 128), "tied": True},
    "EleutherAI/pythia-160m": {"size": 0.162, "rotation": ("default", 16), "activation": "gelu", "tied": False},
    "tiiuae/falcon-7b": {"size": 6.92, "heads": (32, 71, 1, 64), "rotation": ("default", 64), "tied": True},
    "tiiuae/falcon-40b": {"size": 41.3, "heads": (60, 128, 8, 64), "tied": True},
    "facebook/opt-125m": {"size": 0.125, "activation": "relu", "thetas": [None], "tied": True},
    "ByteDance-Seed/Seed-OSS-36B-Instruct": {"size": 36.2, "heads": (64, 80, 8, 128), "thetas": [1e7]},
}


def _period(values: Iterable[Any]) -> list[Any]:
    """The shortest list that gives the values when it is repeated."""
    rest = list(values)
    lengths = range(1, len(rest) + 1)
    return rest[: next(n for n in lengths if all(item == rest[i % n] for i, item in enumerate(rest)))]


def _heads(spec: ModelSpec) -> tuple[int, ...]:
    first = spec.first(Attention)
    return len(spec.layers), first.num_attention_heads, first.num_key_value_heads, spec.head_dim


def _rotation(spec: ModelSpec) -> tuple[str, int]:
    """Of the layers without a window, if there are any."""
    attention = list(spec.all(Attention))
    full = [layer for layer in attention if layer.sliding_window is None] or attention
    rope = next(layer.rope for layer in full if layer.rope is not None)
    return rope.rope_type, rope.dim


SEEN: dict[str, Callable[[ModelSpec], Any]] = {
    "size": lambda spec: pytest.approx(spec.num_parameters() / 1e9, rel=5e-3),
    "windows": lambda spec: _period(attention.sliding_window for attention in spec.all(Attention)),
    "thetas": lambda spec: _period(attention.rope and attention.rope.theta for attention in spec.all(Attention)),
    "rotation": _rotation,
    "heads": _heads,
    "tied": lambda spec: spec.tie_word_embeddings,
    "activation": lambda spec: spec.first(Mlp).activation,
    "softcaps": lambda spec: (spec.first(Attention).softcap, spec.block.logits_softcap),
    "scaled": lambda spec: (spec.first(Attention).query_scaling.beta, spec.first(Attention).query_scaling.context),
    "factors": lambda spec: (
        spec.block.embedding_multiplier,
        spec.first(Attention).multiplier,
        spec.block.logits_multiplier,
        spec.first(Attention).scale,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_read_as_what_it_is_and_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    spec, config = model_spec(CONFIGS[name]), copy.deepcopy(CONFIGS[name])  # transformers writes into it
    assert {key: SEEN[key](spec) for key in EXPECTED[name]} == EXPECTED[name]
    if reason := why_not_loaded(spec.family, "uniform"):
        pytest.skip(reason)
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    assert model_spec(read_json(tmp_path / "config.json")) == spec
    if "text_config" not in config:
        assert model_spec(portable_config({**spec.family.defaults, **config})) == spec
