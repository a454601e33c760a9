"""A model whose heads must stay is pruned in its MLPs alone, and every report says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.corpora import write_corpus
from support.models import write_micro_model

Run = Callable[..., Any]
LINE = "attention stays whole: its norms run over all heads"


@pytest.mark.parametrize("layout", ["per-layer", "uniform"])
def test_only_mlps_shrink_and_the_ratio_counts_all_weights(run: Run, tmp_path: Path, layout: str) -> None:
    dense = write_micro_model(tmp_path / "dense", vocab_size=288, model_type="olmo2")
    task = f"a={write_corpus(tmp_path / 'a.jsonl')}"
    out = tmp_path / "out"
    arguments = ("export", dense, "--task", task, "--layout", layout, "--no-speed", "--out", out)
    outcome = run(*arguments, "--ratio", 0.3)
    assert outcome.code == 0, outcome.err
    assert LINE in outcome.err
    layers = json.loads((out / "a-0.3" / "plan.json").read_text("utf-8"))["layers"]
    assert {len(layer["heads"]) for layer in layers} == {6}
    assert sum(80 - len(layer["neurons"]) for layer in layers) > 0
    assert LINE in run("inspect", out / "a-0.3").out
    assert json.loads(run("inspect", dense, "--json").out)["whole"] == [LINE]
    assert f"{LINE[0].upper()}{LINE[1:]}." in (out / "a-0.3" / "hf" / "README.md").read_text("utf-8")
    refused = run(*arguments, "--ratio", 0.5)
    refused.refused(2, LINE, "at most 0.364 can be removed")
