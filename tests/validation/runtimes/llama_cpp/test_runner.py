"""llama.cpp computes from the written file what torch computes from the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import OF_EACH_FAMILY
from support.corpora import micro_texts
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import Run, open_torch_runner, read_spec
from support.tokenizers import write_byte_level, write_sentencepiece
from support.uneven import uneven_values
from support.variations import VARIATIONS
from tokenizers import Tokenizer

from converters.format import StoredWeights
from converters.gguf import GgufFormat
from seap_export.errors import ParityFailure
from seap_export.model.families import family_of_model_type, model_spec
from validation.runtimes.llama_cpp.runner import LlamaCppRunner, LlamaOptions, open_llama_cpp
from validation.runtimes.runner import Opening

pytestmark = pytest.mark.needs("llama.cpp")
#: The largest difference with GELU, whose values llama.cpp looks up in a table of float16.
GELU = 0.03
#: A longer prompt than the windows, and a shorter one; then two single tokens.
PROMPTS = np.random.default_rng(0).integers(3, 90, (2, 20))
LENGTHS, NEXT = (20, 13), ((5, 7), (9, 11))


def _open(folder: Path, precision: str = "f32") -> tuple[GgufFormat, LlamaCppRunner]:
    """The file of a model folder in llama.cpp."""
    format, out = GgufFormat(precision), folder.parent / "gguf"
    write_byte_level(folder)
    out.mkdir()
    format.write(folder, out, lambda layer: None)
    return format, open_llama_cpp(out, Opening(ONE_THREAD))


def _ours(runner: LlamaCppRunner) -> Iterator[np.ndarray]:
    """The logits of both sequences."""
    with runner:
        first = runner.prefill(PROMPTS, LENGTHS, room=len(NEXT))
        steps = [runner.step(tokens) for tokens in NEXT]
    for row, length in enumerate(LENGTHS):
        yield np.concatenate([first[row, :length], [step[row] for step in steps]])


def _theirs(folder: Path, stored: StoredWeights | None = None) -> list[np.ndarray]:
    """The same of torch, each sequence alone."""
    runs = [
        Run([PROMPTS[row, :length].tolist(), *([tokens[row]] for tokens in NEXT)], length + len(NEXT))
        for row, length in enumerate(LENGTHS)
    ]
    with open_torch_runner(folder, ONE_THREAD, stored=stored) as runner:
        return list(runner.run(runs))


def _refusal(folder: Path) -> str | None:
    return GgufFormat("f32").refusal(read_spec(folder), folder)


def _largest_difference(folder: Path) -> float:
    _, runner = _open(folder)
    return max(float(np.abs(ours - other).max()) for ours, other in zip(_ours(runner), _theirs(folder), strict=True))


#: What no architecture of llama.cpp computes, and why.
REFUSED = {
    "afmoe": "no output gate in attention",
    "arcee-all": "no biases at",
    "bamba": "Mamba-2",
    "bamba-all": "Mamba-2",
    "cwm-all": "sliding window",
    "dots1": "a mixture of experts",
    "ernie4_5_moe": "a mixture of experts",
    "exaone4-window": "windows in models of 64 layers",
    "exaone_moe": "a mixture of experts",
    "falcon_h1-all": "Mamba-2",
    "flex_olmo": "weights by their sum",
    "flint": "no attention sinks",
    "gemma": "no LM head apart",
    "gemma-all": "no biases at o_proj",
    "gemma2": "caps attention scores and logits",
    "gemma2-all": "no biases at o_proj",
    "gemma2-attention-softcap": "caps attention scores and logits",
    "gemma3-all": "no biases at o_proj",
    "gemma4-all": "no biases at k_proj",
    "gemma4-experts": "no norms of values",
    "glm4_moe": "a mixture of experts",
    "gpt_oss": "no attention sinks",
    "gpt_oss-all": "no attention sinks",
    "granite_swa": "no attention sinks",
    "granitemoe": "no biases at o_proj",
    "granitemoe_swa": "no attention sinks",
    "granitemoehybrid-mamba": "Mamba-2",  # of another width than in granitehybrid
    "hunyuan-all": "no biases at o_proj",
    "hunyuan_moe": "weights by their sum",
    "hyperclovax-all": "llama.cpp cannot run",
    "lfm2-all": "no biases at b_proj",
    "lfm2_moe": "a short convolution",
    "lfm3": "no gates on the heads",
    "lfm3-all": "no gates on the heads",
    "minimax_m2": "another router",
    "ministral": "sliding window",
    "ministral-all": "sliding window",
    "ministral3-all": "sliding window",
    "mistral-window": "sliding window",
    "mixtral-all": "sliding window",
    "nemotron_h-all": "Mamba-2",
    "nemotron_h-steps": "no least time step",
    "olmo2-all": "has an LM head apart",
    "olmo3": "llama.cpp cannot run",
    "olmo3-all": "llama.cpp cannot run",
    "olmoe": "no biases at",
    "phi3-all": "sliding window",
    "phi3-partial": "sliding window",
    "qwen2-window": "sliding window",
    "qwen2_moe": "no layer with an MLP",
    "qwen3-biases": "no biases at o_proj",
    "qwen3_5-all": "keys as wide as values",
    "qwen3_moe-all": "weights by their sum",
    "qwen3_moe-some": "a mixture of experts in all layers or in none",
    "qwen3_next": "weights by their sum",
    "smollm3": "rotates other layers",
    "smollm3-all": "no biases at",
    "solar_open": "another router",
    "vaultgemma": "llama.cpp cannot run",
    "vaultgemma-all": "llama.cpp cannot run",
}

for _variation, _values in VARIATIONS.items():
    _family = family_of_model_type(_values["model_type"])
    if _family.block.norm != "rms":
        REFUSED[_variation] = "has no LayerNorm"


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
def test_a_dense_model(tmp_path: Path, variation: str) -> None:
    folder = write_micro_model(tmp_path / "hf", **VARIATIONS[variation])
    if variation in REFUSED:
        assert REFUSED[variation] in str(_refusal(folder))
    else:
        assert _largest_difference(folder) < (GELU if variation.startswith("gemma4") else 1e-3)


#: Others, and what has to be left out of them.
COMPUTED_TOO: dict[str, dict[str, Any]] = {
    "falcon_h1-all": {"mamba_conv_bias": True, "projectors_bias": False},
    "lfm2-all": {"conv_bias": False},
    "nemotron_h": {},
    "olmoe": {"attention_bias": False, "num_key_value_heads": 6},
    "qwen2_moe": {"mlp_only_layers": [], "tie_word_embeddings": False},
    "qwen3_moe": {},
    "qwen3_5-all": {"attention_bias": False, "linear_key_head_dim": 16},
    "qwen3_next": {"attention_bias": False, "norm_topk_prob": True},
}


@pytest.mark.parametrize("variation", COMPUTED_TOO)
def test_without_what_llama_cpp_lacks(tmp_path: Path, variation: str) -> None:
    folder = write_micro_model(tmp_path / "hf", **{**VARIATIONS[variation], **COMPUTED_TOO[variation]})
    assert _largest_difference(folder) < 1e-3


#: What llama.cpp computes of Gemma.
TIED = {"tie_word_embeddings": True, "attention_bias": False}
#: Families whose layers llama.cpp computes with other sizes in each, and those that it does not.
UNEVEN = (
    "llama-mha", "llama-gqa", "llama-mqa", "llama-tied", "llama-linear", "llama-llama3", "llama-yarn", "llama-biases",
    "mistral", "qwen2", "cwm", "ernie4_5", "ernie4_5-biases", "granite", "granite-all", "granitemoehybrid-all",
    "phi3", "seed_oss", "seed_oss-biases",
)  # fmt: skip
UNEVEN_REFUSED = {
    "mistral-window": "'deci' has no sliding window",
    "ministral3": "'deci' does not scale queries by position",
    "qwen3": "'openelm' has no biases at down_proj, o_proj",
    "exaone4": "'openelm' has its norms elsewhere",
    "gemma": "'deci' has no gelu_tanh gate",
    "glm4": "'deci' has its norms elsewhere",
    "hunyuan": "'openelm' has other norms of queries and keys",
    "smollm3": "'deci' rotates other layers",
    "granitemoehybrid": "'deci' rotates other layers",
    "glm": "'deci' rotates whole heads only",
}


@pytest.mark.parametrize("variation", UNEVEN)
def test_layers_that_differ_in_shape(tmp_path: Path, variation: str) -> None:
    assert _largest_difference(write_micro_model(tmp_path / "hf", **uneven_values(variation))) < 1e-3


def test_layers_that_differ_in_shape_with_norms_of_queries_and_keys(tmp_path: Path) -> None:
    values = uneven_values("qwen3", biases=False, tie_word_embeddings=True)
    assert _largest_difference(write_micro_model(tmp_path / "hf", **values)) < 1e-3


@pytest.mark.parametrize("variation", UNEVEN_REFUSED)
def test_layers_that_differ_in_shape_are_refused(tmp_path: Path, variation: str) -> None:
    reason = str(_refusal(write_micro_model(tmp_path / "hf", **uneven_values(variation))))
    assert UNEVEN_REFUSED[variation] in reason
    assert "--layout uniform" in reason


@pytest.mark.parametrize("variation", ["gemma4", "gemma4-inputs", "gemma4-shared", "gemma4_unified", "gemma4-all"])
def test_gemma_4_with_layers_of_any_shapes(tmp_path: Path, variation: str) -> None:
    values = uneven_values(variation, biases=False, attention_bias=False)
    folder, format, out = write_micro_model(tmp_path / "hf", **values), GgufFormat("f32"), tmp_path / "gguf"
    assert _largest_difference(folder) < GELU
    assert [*format.differences(folder, out), *format.damages(folder, out)] == []
    stored = load_file(folder / "model.safetensors")
    read = format.weights(out, read_spec(folder)).read(stored)
    assert all(torch.equal(read[name], tensor) for name, tensor in stored.items())


def test_gemma_4_with_biases_says_how_to_do_without(tmp_path: Path) -> None:
    reason = str(_refusal(write_micro_model(tmp_path / "hf", **uneven_values("gemma4"))))
    assert "'gemma4' has no biases at down_proj, o_proj; set biases = \"none\" in a recipe" in reason


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"layer_types": ["full_attention"] * 3}, "without one"),
        ({"sliding_window": 128}, "shorter than the context"),
        (
            {
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                "hidden_size_per_layer_input": 32,
                "num_kv_shared_layers": 1,
            },
            "keys and values of other layers",
        ),
    ],
)
def test_gemma_4_that_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path: Path, values: dict[str, Any], says: str
) -> None:
    folder = write_micro_model(tmp_path / "hf", **{**VARIATIONS["gemma4"], **values})
    assert says in str(_refusal(folder))


@pytest.mark.parametrize("variation", ["gemma", "gemma2-all", "gemma3", "gemma3-all"])
def test_gemma_with_a_tied_head(tmp_path: Path, variation: str) -> None:
    folder = write_micro_model(tmp_path / "hf", **{**VARIATIONS[variation], **TIED})
    assert _largest_difference(folder) < GELU


@pytest.mark.parametrize(("precision", "limit"), [("f16", 0.01), ("q8_0", 0.1), ("q4_0", 0.2)])
def test_rounded_weights_differ_by_rounded_activations_alone(tmp_path: Path, precision: str, limit: float) -> None:
    values = uneven_values("llama-gqa", hidden_size=128, intermediate_size=96)
    folder = write_micro_model(tmp_path / "hf", **values)
    logits, runner = _open(folder, precision)
    stored = logits.weights(tmp_path / "gguf", model_spec(json.loads((folder / "config.json").read_text("utf-8"))))
    rounded = _theirs(folder, stored)
    computed = list(_ours(runner))
    apart = max(float(np.abs(one - two).max()) for one, two in zip(computed, rounded, strict=True))
    assert apart < limit * max(float(np.abs(logits).max()) for logits in rounded)
    exact = max(float(np.abs(one - two).max()) for one, two in zip(computed, _theirs(folder), strict=True))
    assert apart < exact


def test_a_file_that_llama_cpp_cannot_load(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ParityFailure, match="does not load"):
        LlamaCppRunner(path, LlamaOptions(1))


@pytest.mark.parametrize("write", [write_byte_level, write_sentencepiece])
def test_ids_are_those_of_the_tokenizer(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = write_micro_model(tmp_path / "hf", model_type="llama", vocab_size=512)
    write(folder)
    out = tmp_path / "gguf"
    out.mkdir()
    GgufFormat("f16").write(folder, out, lambda layer: None)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with LlamaCppRunner(out / "model.gguf", LlamaOptions(1, vocabulary_only=True)) as runner:
        for text in (*micro_texts(20), "the <s> cat</s> on", " the  cat"):
            assert runner.tokenize(text) == ours.encode(text).ids
        assert runner.ends() == [2]
