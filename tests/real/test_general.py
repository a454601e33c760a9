"""SmolLM2-135M pruned for all tasks of the demo together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.full


def test_a_variant_for_all_tasks_is_proven_and_what_the_router_falls_back_on(
    demo: Path, smollm2_gguf: Path, run: Callable[..., Any]
) -> None:
    names = ("sentiment", "order")
    tasks = [part for name in names for part in ("--task", f"sample:{name}")]
    small = ("--ratio", "0.4", "--precision", "int4", "--vocabulary", "16384")
    run("export", smollm2_gguf, *tasks, "--general", *small, "--out", demo)
    variant = json.loads((demo / "manifest.json").read_text("utf-8"))["variants"]["general-0.4"]
    assert variant["weights"] == dict.fromkeys(names, 1.0)
    assert abs(variant["achieved_ratio"] - 0.4) <= 0.005
    assert variant["parity"]["onnx"]["verdict"] == "passed"
    router = json.loads((demo / "router" / "router.json").read_text("utf-8"))
    assert router["fallback"]["0.4"] == "general-0.4"
