"""llama.cpp computes from the written file what torch computes from the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import RICHEST
from support.corpora import micro_texts
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import read_spec
from support.tokenizers import write_byte_level, write_sentencepiece
from support.uneven import uneven_values
from support.variations import VARIATIONS, micro_config
from tokenizers import Tokenizer

from converters.gguf import GgufFormat
from converters.gguf.choice import refusal
from seap_export.model.families import model_spec
from validation.runtimes.llama_cpp.runner import LlamaCppRunner, LlamaTexts, open_llama_cpp
from validation.runtimes.runner import Opening

#: The largest difference with GELU, whose values llama.cpp looks up in a table of float16.
GELU = 0.03


def _open(folder: Path, precision: str = "f32") -> tuple[GgufFormat, LlamaCppRunner]:
    format, out = GgufFormat(precision), folder.parent / "gguf"
    write_byte_level(folder)
    out.mkdir()
    format.write(folder, out, lambda layer: None)
    return format, open_llama_cpp(out, Opening(ONE_THREAD))


#: The richest of each family that llama.cpp computes as they are.
COMPUTED = (
    "llama-biases", "ernie4_5-biases", "gemma4_unified", "glm-biases", "glm4-biases", "granite-all",
    "granitemoehybrid-experts", "helium-all", "granitemoeshared", "qwen3_5_moe", "seed_oss-biases",
)  # fmt: skip
#: Others, and what has to be left out of them.
COMPUTED_TOO: dict[str, dict[str, Any]] = {
    "falcon_h1-all": {"mamba_conv_bias": True, "projectors_bias": False},
    "gemma3-all": {"tie_word_embeddings": True, "attention_bias": False},
    "lfm2-all": {"conv_bias": False},
    "nemotron_h": {},
    "olmoe": {"attention_bias": False, "num_key_value_heads": 6},
    "qwen2_moe": {"mlp_only_layers": [], "tie_word_embeddings": False},
    "qwen3_next": {"attention_bias": False, "norm_topk_prob": True},
}
#: Families whose layers llama.cpp computes with other sizes in each.
UNEVEN = {
    "llama-biases": {},
    "cwm": {},
    "ernie4_5-biases": {},
    "gemma4-all": {"biases": False, "attention_bias": False},
    "granitemoehybrid-all": {},
    "phi3": {},
    "qwen3": {"biases": False, "tie_word_embeddings": True},
}
_GEMMA_4 = VARIATIONS["gemma4"]
_KINDS = ["full_attention", "sliding_attention", "full_attention"]
_SHARED = {"layer_types": _KINDS, "hidden_size_per_layer_input": 32, "num_kv_shared_layers": 1}
#: And those that it does not; what it would compute otherwise of Gemma 4.
OTHERWISE = {
    "mistral-window": "'deci' has no sliding window", "ministral3": "'deci' does not scale queries by position",
    "qwen3": "'openelm' has no biases at down_proj, o_proj", "gemma": "'deci' has no gelu_tanh gate",
    "gemma4": 'set biases = "none" in a recipe', "glm4": "'deci' has its norms elsewhere",
    "hunyuan": "'openelm' has other norms of queries and keys", "smollm3": "'deci' rotates other layers",
    "glm": "'deci' rotates whole heads only",
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{name: (uneven_values(name), words) for name, words in OTHERWISE.items()},
    "all windows": ({**_GEMMA_4, "layer_types": ["full_attention"] * 3}, "without one"),
    "long window": ({**_GEMMA_4, "sliding_window": 128}, "shorter than the context"),
    "shared keys": ({**_GEMMA_4, **_SHARED}, "keys and values of other layers"),
}


def test_what_llama_cpp_computes_and_nothing_else_is_written() -> None:
    specs = {name: model_spec(micro_config(**VARIATIONS[name])) for name in RICHEST}
    assert sorted(name for name, spec in specs.items() if refusal(spec) is None) == sorted(COMPUTED)


def models() -> list[Any]:
    """Values of models that llama.cpp computes; one even and one uneven model without `make test-all`."""
    values = {name: {**VARIATIONS[name], **COMPUTED_TOO.get(name, {})} for name in (*COMPUTED, *COMPUTED_TOO)}
    values |= {f"uneven {name}": uneven_values(name, **options) for name, options in UNEVEN.items()}
    quick = ("seed_oss-biases", "uneven llama-biases")
    return [
        pytest.param(known, id=name, marks=() if name in quick else pytest.mark.full) for name, known in values.items()
    ]


@pytest.mark.needs("llama.cpp")
@pytest.mark.parametrize("values", models())
def test_llama_cpp_equals_torch(tmp_path: Path, values: dict[str, Any], two_rows: Any) -> None:
    folder = write_micro_model(tmp_path / "hf", **values)
    with closing(_open(folder)[1]) as runner:
        difference = two_rows.largest(two_rows.of(runner), two_rows.of_torch(folder))
    assert difference < (GELU if "gemma" in values["model_type"] else 1e-3)


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(case: str) -> None:
    values, words = REFUSED[case]
    reason = str(refusal(model_spec(micro_config(**values))))
    assert words in reason
    assert "gemma4" in values["model_type"] or "--layout uniform" in reason


@pytest.mark.needs("llama.cpp")
@pytest.mark.parametrize(("precision", "limit"), [pytest.param("f16", 0.01, marks=pytest.mark.full), ("q4_0", 0.2)])
def test_in_llama_cpp_rounded_weights_differ_by_rounded_activations_alone(
    tmp_path: Path, precision: str, limit: float, two_rows: Any
) -> None:
    folder = write_micro_model(tmp_path / "hf", **uneven_values("llama-gqa", hidden_size=128, intermediate_size=96))
    written, runner = _open(folder, precision)
    with closing(runner):
        computed = two_rows.of(runner)
    rounded = two_rows.of_torch(folder, written.weights(tmp_path / "gguf", read_spec(folder)))
    apart = two_rows.largest(computed, rounded)
    assert apart < limit * max(float(np.abs(logits).max()) for logits in rounded[:2])
    assert apart < two_rows.largest(computed, two_rows.of_torch(folder))


@pytest.mark.needs("llama.cpp")
@pytest.mark.parametrize("write", [write_byte_level, write_sentencepiece])
def test_llama_cpp_reads_the_ids_of_the_tokenizer(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = write_micro_model(tmp_path / "hf", model_type="llama", vocab_size=512)
    write(folder)
    out = tmp_path / "gguf"
    out.mkdir()
    GgufFormat("f16").write(folder, out, lambda layer: None)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with closing(LlamaTexts(out)) as texts:
        for text in (*micro_texts(20), "the <s> cat</s> on", " the  cat"):
            assert texts.encode(text) == ours.encode(text).ids
