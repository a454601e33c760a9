"""Small models of every family load in torch, the pruned ones with layers of different shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.execution import ONE_THREAD
from support.product import Run, open_torch_runner
from support.variations import FAMILIES

from seap_export.families import model_spec
from validation.benchmarks.runtimes.small_models import Kind, write_small_model


@pytest.mark.parametrize("kind", ["pruned", pytest.param("dense", marks=pytest.mark.full)])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs(family: str, kind: Kind, tmp_path: Path) -> None:
    write_small_model(tmp_path, family, kind)
    spec = model_spec(json.loads((tmp_path / "config.json").read_text("utf-8")))
    kinds = {layer.outputs for layer in spec.layers}
    assert len({tuple(layer.sizes.items()) for layer in spec.layers}) == {"dense": len(kinds), "pruned": 3}[kind]
    with open_torch_runner(tmp_path, ONE_THREAD) as runner:
        (logits,) = runner.run([Run([range(5, 45)], 2)])
    assert np.isfinite(logits).all()
    assert np.ptp(logits[0]) > 0.5
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    # A model that is sure of every token hides what differs.
    surest = np.exp(logits.max(-1) - np.logaddexp.reduce(logits, axis=-1))
    assert surest.mean() < 0.95


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_small_model(tmp_path / name, "llama", "pruned", seed=3)
    write_small_model(tmp_path / "c", "llama", "pruned", seed=4)
    first, second, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == second != other
