"""What a GGUF file's metadata say becomes config.json; what no family computes is refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.formats.gguf import GGUF_VARIATIONS, write_micro_gguf

from seap_export.errors import InputError
from seap_export.model.families import Attention, model_spec
from seap_export.model.sources.gguf.config import gguf_config
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.reader import GgufReader

#: What Granite 4 without state-space layers has besides, as its converter writes it: a list of equal numbers is one.
GRANITE_4 = {
    "attention.head_count_kv": [3, 3, 3],
    "expert_count": 0,
    "expert_used_count": 0,
    "expert_shared_feed_forward_length": 80,
    "rope.scaling.finetuned": True,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 192,
}


def config_of(folder: Path, name: str, **arguments: Any) -> dict[str, Any]:
    return gguf_config(GgufFile.open(write_micro_gguf(folder, **GGUF_VARIATIONS[name], **arguments)))


@pytest.mark.parametrize(("original", "factor"), [(8192, 32.0), (2048, 2.5)])
def test_llama3_rope_scaling_is_recovered(tmp_path: Path, original: int, factor: float) -> None:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = original
    file = GgufFile.open(write_micro_gguf(tmp_path, model_type="llama", rope_scaling=scaling, rope_theta=5e5))
    assert gguf_config(file)["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in GgufReader(file).shapes()


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_slow": 1.0}


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"rope.scaling.type": "none"}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({**YARN, "rope.scaling.yarn_beta_fast": 16.0}, {**YARN_SCALING, "beta_fast": 16.0}),
        (
            {**YARN, "rope.scaling.yarn_attn_factor": 1.0, "rope.scaling.yarn_log_multiplier": 0.5},
            {**YARN_SCALING, "beta_fast": 32.0, "attention_factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5},
        ),
    ],
)
def test_rope_scaling_from_metadata(tmp_path: Path, metadata: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    config = config_of(tmp_path, "qwen2", metadata=metadata)
    assert config["rope_scaling"] == scaling
    model_spec(config)


def test_what_llama_cpp_assumes_is_written_and_what_a_file_says_is_kept(tmp_path: Path) -> None:
    usual = config_of(tmp_path / "usual", "phi3-long")["rope_scaling"]
    other = config_of(tmp_path / "other", "phi3-long", metadata={"rope.scaling.attn_factor": 1.5})["rope_scaling"]
    assert "attention_factor" not in usual
    assert other == {**usual, "attention_factor": 1.5}
    absent = dict.fromkeys(("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping"))
    gemma2 = config_of(tmp_path / "gemma2", "gemma2", metadata=absent)
    assert gemma2["sliding_window"] == 4096
    spec = model_spec(gemma2)
    assert (spec.first(Attention).softcap, spec.block.logits_softcap) == (50.0, 30.0)
    gemma3 = config_of(tmp_path / "gemma3", "gemma3", metadata={**absent, "rope.freq_base_swa": None})
    assert gemma3["sliding_window"] is None
    assert gemma3["rope_local_base_freq"] == 10000.0
    assert set(gemma3["layer_types"]) == {"full_attention"}
    granite = config_of(tmp_path / "granite", "granite", metadata={"attention.scale": None})
    assert granite["attention_multiplier"] == 16**-0.5
    assert config_of(tmp_path / "4", "granite", metadata=GRANITE_4) == config_of(tmp_path / "3", "granite")
    number = config_of(tmp_path / "a", "gemma3", metadata={"attention.sliding_window_pattern": 2})
    assert number["layer_types"] == ["sliding_attention", "full_attention"] * 3
    slides = [True, False, False, True, True, False]
    listed = config_of(tmp_path / "b", "gemma3", metadata={"attention.sliding_window_pattern": slides})
    assert [kind == "sliding_attention" for kind in listed["layer_types"]] == slides


def test_the_largest_gemma_models_scale_attention_by_their_width(tmp_path: Path) -> None:
    small = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 8, "num_attention_heads": 3}
    for name, layers, scalar in (("gemma2", 46, 144), ("gemma3", 62, 168), ("gemma3", 26, 16)):
        values = {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers, **small}
        file = write_micro_gguf(tmp_path / f"{name}{layers}", **GGUF_VARIATIONS[name] | values)
        assert gguf_config(GgufFile.open(file))["query_pre_attn_scalar"] == scalar


@pytest.mark.parametrize(
    ("name", "metadata", "tensors", "message"),
    [
        ("llama", {"attention.head_count": [4, 6, 6]}, {}, "'attention.head_count' differs by layer"),
        ("llama", {"block_count": None}, {}, "'block_count' must be a positive whole number, not None"),
        ("llama", {"attention.head_count": 5}, {}, "do not divide into 5 heads"),
        ("llama", {"rope.freq_base": "high"}, {}, "'rope.freq_base' must be a number"),
        ("llama", {"expert_count": 8}, {}, "mixtures of experts"),
        ("llama", {"attention.sliding_window": 64}, {}, "sliding-window attention"),
        ("llama", {"rope.dimension_count": 8}, {}, "partial rotation"),
        ("llama", {"attention.value_length": 8}, {}, "values of another width"),
        ("llama", {"attention.causal": False}, {}, "bidirectional"),
        ("llama", {"attention.clamp_kqv": 8.0}, {}, "'attention.clamp_kqv' are not known"),
        ("llama", {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, {}, "rope scaling 'longrope'"),
        ("llama", {"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 0.5}, {}, "attn_factor"),
        ("llama", {**YARN, "rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor"),
        ("llama", {}, {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}, "not those of llama3"),
        ("llama", {"split.count": 3}, {}, "one of 3 shards; join them with"),
        ("glm4", {"nextn_predict_layers": 1}, {}, "predict further tokens"),
        ("granite", {"rope.scaling.finetuned": False}, {}, "without rotation"),
    ],
)
def test_what_no_family_does_is_refused(
    tmp_path: Path, name: str, metadata: dict[str, Any], tensors: dict[str, np.ndarray], message: str
) -> None:
    path = write_micro_gguf(tmp_path, metadata=metadata, tensors=tensors, **GGUF_VARIATIONS[name])
    with pytest.raises(InputError, match=message) as caught:
        gguf_config(GgufFile.open(path))
    assert "\n" not in str(caught.value)
