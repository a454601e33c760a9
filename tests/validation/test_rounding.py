"""A torch model that is scaled like a graph computes what it did, and within fp16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from micro import RICHEST, VARIATIONS, write_micro_model
from scaled import every_exponent

from converters.scaling import Scaling
from seap_export.families import model_spec
from seap_export.sources.config import read_json
from validation.rounding import scale_weights
from validation.torch_runner import open_torch_runner

TOKENS = [[3, 4, 5, 6, 7, 8, 9, 10]]


@pytest.mark.parametrize("name", RICHEST)
def test_scaling_changes_no_result(name: str, tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", **VARIATIONS[name])
    spec = model_spec(read_json(folder / "config.json"))
    with open_torch_runner(folder, 1) as runner:
        expected = runner.run(TOKENS, 8).logits
        kept = scale_weights(runner.model, spec, every_exponent(spec))
        found = runner.run(TOKENS, 8).logits
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        runner.narrow(torch.float16, kept)
        rounded = runner.run(TOKENS, 8).logits
    assert 1e-5 < np.abs(rounded - expected).max() / np.sqrt(np.square(expected).mean()) < 0.1


def test_no_scaling_touches_nothing(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", model_type="gemma")
    spec = model_spec(read_json(folder / "config.json"))
    assert scale_weights(None, spec, Scaling()) == frozenset()
