"""vLLM finds the classes of pruned models by the entry point."""

from __future__ import annotations

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
