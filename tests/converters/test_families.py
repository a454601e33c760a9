"""Graphs of every family compute what transformers' own class computes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from converters import genai_config, write_onnx
from converters.dialects import DialectName
from converters.form import OnnxForm
from converters.precision import Precision
from seap_export.families import model_spec, supported_families
from validation.torch_runner import TorchRunner

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
FULL, SLIDING = "full_attention", "sliding_attention"
PAIRS = np.arange(8)
LONGROPE = {"rope_type": "longrope", "short_factor": (1 + PAIRS / 10).tolist(), "long_factor": (2 + PAIRS).tolist()}
MULTIPLIERS = {
    "attention_multiplier": 0.09,
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
}
#: What makes the features of a family matter in a micro model.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {},
    "seed_oss": {},
    "gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0},
    "gemma3_text": {
        "sliding_window": 5,
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
        "query_pre_attn_scalar": 20,
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "granite": {**MULTIPLIERS, "attention_bias": True, "mlp_bias": True},
    "granitemoehybrid": {
        **MULTIPLIERS,
        "shared_intermediate_size": 48,
        "num_local_experts": 0,
        "layer_types": ["attention"] * 4,
        "position_embedding_type": "rope",
        "head_dim": 16,
    },
    "smollm3": {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": False},
    "phi3": {
        "head_dim": 32,
        "hidden_size": 128,
        "partial_rotary_factor": 0.5,
        "rope_parameters": {**LONGROPE, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "original_max_position_embeddings": 12,
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "original_max_position_embeddings": 6,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.7,
        },
    },
    "exaone4": {"sliding_window": 5, "sliding_window_pattern": 4, "layer_types": [SLIDING, SLIDING, FULL, SLIDING]},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}},
    "ernie4_5": {"use_bias": False},
    "glm4": {"partial_rotary_factor": 0.5, "attention_bias": True},
}  # fmt: skip
TOLERANCE = 1e-4


def test_no_family_is_left_out() -> None:
    assert FAMILIES.keys() == set(supported_families())


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
            else:
                parameter.normal_(std=1.6 * model.config.hidden_size**-0.5)
    return model


class Session:
    """The graph written from a model; it continues one generation."""

    def __init__(self, model: PreTrainedModel, folder: Path, form: OnnxForm) -> None:
        model.save_pretrained(folder / "hf")
        (folder / "onnx").mkdir(parents=True)
        write_onnx(folder / "hf", folder / "onnx", form)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options)
        caches = self._session.get_inputs()[2:]
        dtype = np.float16 if "float16" in caches[0].type else np.float32
        self._names = [item.name for item in caches]
        self._past = [np.zeros((1, item.shape[1], 0, item.shape[3]), dtype) for item in caches]
        self._length = 0

    def call(self, ids: np.ndarray) -> np.ndarray:
        self._length += ids.shape[1]
        feeds = {"input_ids": ids, "attention_mask": np.ones((1, self._length), np.int64)}
        logits, *self._past = self._session.run(None, feeds | dict(zip(self._names, self._past, strict=True)))
        return logits


def differences(model: PreTrainedModel, session: Session) -> list[float]:
    """Of a prompt's logits, those of a second call, and of steps; over the RMS of torch's."""
    tokens = np.random.default_rng(0).integers(3, 96, 20)
    parts = np.split(tokens, [6, *range(10, 20)])
    expected = np.split(TorchRunner(model).run([part.tolist() for part in parts], 20).logits, [6, *range(10, 20)])
    found = [session.call(part[None])[0] for part in parts]
    return [
        float(np.abs(own - wanted).max() / np.sqrt(np.square(wanted).mean()))
        for own, wanted in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family: str, dialect: DialectName, tmp_path: Path) -> None:
    model = model_of(family)
    session = Session(model, tmp_path, OnnxForm(dialect=dialect))
    assert max(differences(model, session)) <= TOLERANCE


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp16(family: str, dialect: DialectName, tmp_path: Path) -> None:
    model = model_of(family)
    session = Session(model, tmp_path, OnnxForm(Precision("fp16"), dialect))
    assert max(differences(model, session)) <= 0.1


_GENAI = """
import json, sys
import onnxruntime_genai as og
found = {}
for family, tokens in json.loads(sys.argv[2]).items():
    model = og.Model(f"{sys.argv[1]}/{family}/onnx")
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=18, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    found[family] = list(map(int, generator.get_sequence(0)))
print(json.dumps(found))
"""


@pytest.mark.release
def test_genai_generates_what_transformers_does(tmp_path: Path) -> None:
    prompt, expected = np.random.default_rng(0).integers(3, 96, 8).tolist(), {}
    for family in FAMILIES:
        model, folder = model_of(family), tmp_path / family
        Session(model, folder, OnnxForm())
        expected[family] = [*prompt, *TorchRunner(model).continuation(prompt, 10)]
        config = json.loads((folder / "hf" / "config.json").read_text())
        config["eos_token_id"] = min(set(range(96)) - set(expected[family]))
        (folder / "onnx" / "genai_config.json").write_text(json.dumps(genai_config(model_spec(config), config, None)))
    python = Path(__file__).parents[2] / ".venv-genai" / "bin" / "python"
    command = [python, "-I", "-c", _GENAI, tmp_path, json.dumps(dict.fromkeys(FAMILIES, prompt))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
