"""Torch's own noise: of rounding as a graph rounds, and of choices of routers that are nearly tied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
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
from seap_export.model.families import Experts, model_spec
from seap_export.model.layers.sublayers.experts import chosen_experts
from validation.array_store import ArrayStore
from validation.parity import references, ties
from validation.parity.profiles import Noise
from validation.parity.references import (
    Reference,
    TokenSequence,
    _divergence_of,
    _run_again,
    _variation,
    run_references,
)
from validation.parity.rounding import _row_to_8_bits, _to_8_bits, narrow, scale_norms, scale_weights
from validation.prompts import Case

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


LOGITS = torch.tensor([[2.0, 1.0, 0.9999, -1.0], [2.0, 1.5, 0.0, -1.0], [0.0, 3.0, 1.0001, 1.0]])


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, [[0, 2], [0, 1], [1, 3]]),  # the second is clear
        ({"has_expert_scale": True}, [[0, 2], [0, 1], [1, 3]]),
        # no two sums are alike
        ({"scores": "sigmoid", "scaling": 2.0, "has_selection_bias": True}, [[0, 2], [2, 0], [1, 2]]),
    ],
)
def test_a_choice_that_is_nearly_tied_takes_the_next_expert(options: dict[str, Any], chosen: list[list[int]]) -> None:
    experts = Experts(num_experts=4, moe_intermediate_size=2, experts_per_token=2, **options)
    scale = torch.tensor([2.0, 3.0, 5.0, 7.0]) if experts.has_expert_scale else torch.ones(4)
    # a vector may be stored as a row
    mixture, bias = SimpleNamespace(bias=torch.tensor([[0.0, 0.0, 0.5, 0.0]]), scale=scale), experts.has_selection_bias
    weights, indices = chosen_experts(LOGITS, experts, mixture.bias[0] if bias else None)
    counted, given = ties.Ties(), LOGITS.softmax(-1) if experts.has_expert_scale else LOGITS
    paths = {"selection_bias": "bias", "expert_scale": "scale"}
    hook = ties._Hook(experts, mixture, paths, 1e-3, counted, gives_probabilities=given is not LOGITS)
    first, other_weights, others = hook(None, None, (given, weights * scale[indices], indices))
    assert first is given
    assert others.sort().values.tolist() == [sorted(pair) for pair in chosen]
    assert (counted.tied, counted.every) == (0 if bias else 2, 3)
    scores = (LOGITS.sigmoid() if bias else LOGITS.softmax(-1)).gather(1, others)
    expected = scores / scores.sum(1, keepdim=True) * experts.scaling * scale[others]
    torch.testing.assert_close(other_weights, expected)


@pytest.mark.parametrize(("tied", "is_few"), [(0, False), (1, True), (5, True), (6, False)])
def test_ties_are_few_up_to_a_twentieth_of_all_choices(tied: int, is_few: bool) -> None:
    assert ties.Ties(tied, every=100).are_few is is_few


def test_a_router_that_takes_all_experts_has_no_other_choice(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "m", model_type="mixtral", num_local_experts=2)
    with (
        open_torch_runner(folder, ONE_THREAD) as runner,
        ties.other_choices(runner.model, runner.spec, rate=10.0) as counted,
    ):
        _logits(runner)
    assert (counted.tied, counted.every) == (0, 0)


@pytest.mark.parametrize(("rate", "is_counted"), [(0.0, False), (0.02, True), (10.0, False)])
def test_few_ties_count_as_noise_and_many_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, is_counted: bool
) -> None:
    folder = write_micro_model(tmp_path / "m", **VARIATIONS["mixtral"])
    monkeypatch.setattr(ties, "NEARLY_TIED", dict.fromkeys(ties.NEARLY_TIED, rate))
    monkeypatch.setattr(references, "NEARLY_TIED", ties.NEARLY_TIED)
    rows = tuple(tuple(np.random.default_rng(seed).integers(3, 96, 60).tolist()) for seed in range(2))
    case = Case("tied", rows, ((5, 6), (7, 8)))
    with open_torch_runner(folder, ONE_THREAD) as runner, ArrayStore() as store:
        known = run_references(runner, [case], store, runner.spec, lambda line: None)
        noise: dict[TokenSequence, Noise] = references._tied_divergence(
            runner, known, store, Precision("fp16"), lambda line: None
        )
    assert bool(noise) == is_counted
    assert not is_counted or max(one.mean_kl for one in noise.values()) > 1e-5


def test_the_divergence_of_few_tokens_varies_as_that_of_all_does() -> None:
    def moved(by: list[float]) -> Any:
        return np.array([[0.0, value] for value in by], dtype=np.float32)

    few, many = [0.1, 0.1], [0.1] * 18 + [1.0, 1.0]
    sequences = [TokenSequence((1,) * (len(by) - 1), (2,), len(by) - 1, len(by)) for by in (few, many)]
    spec = SimpleNamespace(ropes=(), sublayers=())
    runner: Any = SimpleNamespace(spec=spec, run=lambda *_: [moved(few), moved(many)])
    with ArrayStore() as store:
        stored = (Reference(store.put(moved([0.0] * len(by))), ()) for by in (few, many))
        known = dict(zip(sequences, stored, strict=True))
        noise = _divergence_of(_run_again(runner, known, store, "rounding", lambda line: None))
    logs = np.logaddexp(0.0, [*few, *many]) - np.log(2.0) - np.array([*few, *many]) / 2  # KL of (1/2, 1/2)
    assert noise[sequences[0]].kl_variation == pytest.approx(logs.std() / logs.mean(), rel=1e-3)
    assert noise[sequences[0]].kl_variation > 2
    assert noise[sequences[1]].kl_variation >= noise[sequences[0]].kl_variation
    # it is 1 at least
    assert _variation(np.zeros(0)) == _variation(np.zeros(4)) == _variation(np.ones(4)) == 1.0
    assert _variation(np.array([0.0, 1.0, 0.0, 0.0])) == pytest.approx(np.std([0, 1, 0, 0]) / 0.25)
