"""Importing the package lets transformers load pruned models, and costs nothing before that."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from support.models import why_not_loaded, write_micro_model
from support.product import families
from support.variations import FAMILIES

from seap_export.model.families import family_of_model_type
from seap_export.model.modeling import configuration_seap, modeling_seap

ROOT = Path(__file__).parents[4]
PER_LAYER = {"1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 11}}
#: Loads the pruned and the ordinary model, and prints what came of it.
LOADING = """
import json, sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaForCausalLM
pruned, dense = sys.argv[1:]
config = AutoConfig.from_pretrained(pruned)
model = AutoModelForCausalLM.from_pretrained(pruned)
base = AutoModel.from_pretrained(pruned)
plain = AutoModelForCausalLM.from_pretrained(dense)
print(json.dumps({
    "config": type(config).__name__,
    "model": type(model).__name__,
    "model config": type(model.config).__name__,
    "base": type(base).__name__,
    "same weights": all(map(torch.equal, base.parameters(), model.model.parameters())),
    "module": type(model).__module__,
    "dense is stock": type(plain) is LlamaForCausalLM,
    "q_proj": list(model.model.layers[1].self_attn.q_proj.weight.shape),
    "up_proj": list(model.model.layers[1].mlp.up_proj.weight.shape),
    "made": [type(AutoConfig.for_model(f"seap_{name}")).__name__ for name in ("qwen2", "gemma3_text", "smollm3")],
}))
"""
#: vLLM's workers are given a config, and do not read config.json.
WORKER = """
from seap_export.model.modeling.configuration_seap import SeapLlamaConfig
from seap_export.model.modeling.registration import register_models
from transformers import AutoModel
sizes = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 8)
heads = dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 1)
register_models('SeapLlamaForCausalLM')
assert type(AutoModel.from_config(SeapLlamaConfig(**sizes, **heads, head_dim=8))).__name__ == 'SeapLlamaModel'
"""


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, seap_export; print('numpy' in sys.modules); import seap_export.corpus;"
    assert python(code + "print({'torch', 'transformers'} & sys.modules.keys())").split() == ["False", "set()"]


def test_transformers_loads_pruned_models_and_others_as_ever(tmp_path: Path) -> None:
    write_micro_model(tmp_path / "pruned", model_type="seap_llama", per_layer_config=PER_LAYER)
    write_micro_model(tmp_path / "dense", model_type="llama")
    printed = python(f"import seap_export\n{WORKER}{LOADING}", str(tmp_path / "pruned"), str(tmp_path / "dense"))
    assert json.loads(printed.splitlines()[-1]) == {
        **dict.fromkeys(("config", "model config"), "SeapLlamaConfig"),
        "model": "SeapLlamaForCausalLM",
        "module": "seap_export.model.modeling.modeling_seap",
        "base": "SeapLlamaModel",
        "same weights": True,
        "dense is stock": True,
        "q_proj": [32, 96],
        "up_proj": [11, 96],
        "made": ["SeapQwen2Config", "SeapGemma3Config", "SeapSmolLM3Config"],
    }


def test_the_entry_point_of_vllm_registers_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, str] = {}
    pretend = ModuleType("vllm")
    pretend.ModelRegistry = type("ModelRegistry", (), {"register_model": registered.__setitem__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", pretend)
    (entry,) = (point for point in entry_points(group="vllm.general_plugins") if point.name == "seap_export")
    entry.load()()
    assert registered.keys() == {f"Seap{family.stem}ForCausalLM" for family in families()}
    (path,) = set(registered.values())
    assert find_spec(path.partition(":")[0]) is not None


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_classes_are_transformers_own_with_another_name(model_type: str) -> None:
    family = family_of_model_type(model_type)
    if reason := why_not_loaded(family, "uniform"):
        pytest.skip(reason)
    stock = getattr(transformers, family.architecture)
    model_class, base_class = (getattr(modeling_seap, f"Seap{family.stem}{part}") for part in ("ForCausalLM", "Model"))
    config_class = getattr(configuration_seap, f"Seap{family.stem}Config")
    assert issubclass(model_class, stock)
    assert issubclass(base_class, transformers.MODEL_MAPPING[stock.config_class])
    assert issubclass(config_class, stock.config_class)
    assert model_class.config_class is base_class.config_class is config_class
    assert config_class.model_type == f"seap_{model_type}"
    for made in (model_class, base_class, config_class):
        assert pickle.loads(pickle.dumps(made)) is made


@pytest.mark.parametrize(
    ("module", "suffix"), [(configuration_seap, "Config"), (modeling_seap, "ForCausalLM"), (modeling_seap, "Model")]
)
def test_a_class_that_transformers_lacks_is_refused_by_name(module: object, suffix: str) -> None:
    with pytest.raises(AttributeError, match=r"transformers \S+ has no NobodyForCausalLM; install a newer release"):
        getattr(module, f"SeapNobody{suffix}")
    assert not any(hasattr(module, name) for name in ("SeapConfig", "LlamaForCausalLM", "SeapLlama", "SeapModel"))
