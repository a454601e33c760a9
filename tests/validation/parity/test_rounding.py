"""A torch model that is scaled like a graph computes what it did, and within fp16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.chosen import SCALABLE, varied
from support.editing import edit_weights
from support.execution import ONE_THREAD
from support.formats import every_exponent
from support.models import write_micro_model
from support.product import (
    Precision,
    Run,
    SafetensorsReader,
    TorchRunner,
    choose_precision,
    open_torch_runner,
    read_spec,
    round_activations,
)
from support.variations import VARIATIONS

from converters.onnx.weights.overflow import find_scaling
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec
from validation.parity.rounding import _row_to_8_bits, _to_8_bits, narrow, scale_norms, scale_weights

TOKENS = [[3, 4, 5, 6, 7, 8, 9, 10]]


def _logits(runner: TorchRunner) -> np.ndarray:
    return next(runner.run([Run(TOKENS, 8)]))


@pytest.mark.parametrize("name", varied(SCALABLE))
def test_scaling_changes_no_result(name: str, tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", **VARIATIONS[name])
    spec = read_spec(folder)
    with open_torch_runner(folder, ONE_THREAD) as runner:
        expected = _logits(runner)
        runner.change_weights(scale_weights(spec, every_exponent(spec)))
        kept = scale_norms(runner.model, spec, every_exponent(spec))
        logits = _logits(runner)
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
        runner.change_weights(narrow(torch.float16, kept))
        rounded = _logits(runner)
    differences = np.abs(rounded - expected)  # some are large where a token reaches another expert
    assert 1e-5 < np.median(differences) / np.sqrt(np.square(expected).mean()) < 0.1


def test_what_overflows_in_fp16_is_rounded_like_the_graph(tmp_path: Path) -> None:
    """Otherwise torch would have no rounding to compare a graph's with."""
    folder = write_micro_model(tmp_path / "m", model_type="llama")
    edit_weights(folder, lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].mul_(30000))
    config = read_json(folder / "config.json")
    spec = model_spec(config)
    scaling = find_scaling(config, spec, SafetensorsReader(folder), Precision("fp16"))
    with open_torch_runner(folder, ONE_THREAD) as runner:
        expected = _logits(runner)
        runner.change_weights(scale_weights(spec, scaling))
        runner.change_weights(narrow(torch.float16, scale_norms(runner.model, spec, scaling)))
        assert np.abs(_logits(runner) - expected).max() < 0.1 * np.abs(expected).max()
    with open_torch_runner(folder, ONE_THREAD) as runner:
        runner.change_weights(narrow(torch.float16))
        assert not np.isfinite(_logits(runner)).all()


def test_activations_are_rounded_to_8_bits_in_blocks_or_in_rows() -> None:
    x = torch.randn(4, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks, ends = x.unflatten(1, (3, 16)), torch.zeros(4, 1, dtype=torch.float64)
    step = blocks.abs().amax(-1, keepdim=True) / 127
    assert ((_to_8_bits(x, 16).unflatten(1, (3, 16)) - blocks).abs() <= step / 2 * 1.001).all()
    step = (torch.cat([x, ends], 1).amax(1) - torch.cat([x, ends], 1).amin(1))[:, None] / 255
    assert ((_row_to_8_bits(x) - x).abs() <= step / 2 * 1.001).all()


@pytest.mark.parametrize(("precision", "in_rows"), [("int4", False), ("w8a8", True), ("w4a8", True)])
def test_tokens_are_rounded_in_blocks_or_whole_as_the_graph_does(
    tmp_path: Path, precision: Any, in_rows: bool
) -> None:
    folder, seen = write_micro_model(tmp_path / "m", model_type="llama"), list[torch.Tensor]()
    how = choose_precision(precision).quantization
    assert how is not None
    with open_torch_runner(folder, ONE_THREAD) as runner:
        round_activations(runner.model, read_spec(folder), how)
        up = runner.model.get_submodule("model.layers.1.mlp.up_proj")
        up.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        _logits(runner)
    (x,) = (tokens.flatten(0, -2) for tokens in seen)
    levels = x / (x.abs().amax(-1, keepdim=True) / 127)
    assert torch.allclose(levels, levels.round(), atol=1e-3) is in_rows
