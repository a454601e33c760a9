"""vLLM finds the classes of pruned models by the entry point."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType

import pytest
from support.product import families


def test_the_entry_point_registers_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, str] = {}
    pretend = ModuleType("vllm")
    pretend.ModelRegistry = type("ModelRegistry", (), {"register_model": registered.__setitem__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", pretend)
    (entry,) = (point for point in entry_points(group="vllm.general_plugins") if point.name == "seap_export")
    entry.load()()
    assert registered.keys() == {f"Seap{family.stem}ForCausalLM" for family in families()}
    (path,) = set(registered.values())
    assert find_spec(path.partition(":")[0]) is not None


def test_a_process_that_is_given_a_config_finds_the_classes() -> None:
    """vLLM's workers do not read config.json."""
    code = (
        "import seap_export\nfrom seap_export.model.modeling.configuration_seap import SeapLlamaConfig\n"
        "from seap_export.model.modeling.registration import register_models\nfrom transformers import AutoModel\n"
        "config = SeapLlamaConfig(vocab_size=8, hidden_size=8, head_dim=4, num_attention_heads=2, num_hidden_layers=1,"
        " num_key_value_heads=1, intermediate_size=8)\n"
        "register_models('SeapLlamaForCausalLM')\nprint(type(AutoModel.from_config(config)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["SeapLlamaModel"], done.stderr
