"""Models without some of their experts: what transformers computes with them, and the refit of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calibration import mixture_of
from support.corpora import random_token_ids
from support.models import masked_logits, micro_source, transformers_model, write_micro_model
from support.plans import layer_plan, plan_of
from support.product import (
    Compensation,
    DecoderLayer,
    LayerPlan,
    Plan,
    Source,
    length_buckets,
    open_source,
    router_weights,
)
from support.variations import VARIATIONS
from torch import nn

from seap_export.model.families import Attention, Experts
from seap_export.model.layers import working_memory
from seap_export.model.layers.hidden_states import HiddenStates
from seap_export.pruning.plan.sublayers import KeptExperts, KeptHeads
from seap_export.pruning.shrink.expert_refit import ExpertFit
from seap_export.pruning.shrink.write import write_shrunk_model

#: All neurons of a dense layer, and fewer: then a layer with experts lacks the first.
ALL, FEWER = range(80), range(0, 80, 2)
SOME_HEADS = (1, 2, 5)


def shrunk(source: Source, folder: Path, compensation: Compensation) -> Plan:
    """The second layer and the last lack an expert, and the last half of all neurons, and of heads with sinks."""
    pairs = zip(source.spec.layers, (ALL, FEWER, FEWER), strict=True)
    *layers, last = [layer_plan(layer, None, None, neurons) for layer, neurons in pairs]
    experts, width = last[KeptExperts].units, last[KeptExperts].expert_width
    half = KeptExperts(experts, width // 2, tuple(tuple(range(expert % 2, width, 2)) for expert in experts))
    attention = source.spec.layers[-1][Attention]
    heads = KeptHeads.of(attention, SOME_HEADS) if attention.has_sinks else last[KeptHeads]
    plan = plan_of(source, [*layers, LayerPlan((heads, half))], compensation)
    (folder / "hf").mkdir()
    statistics = mixture_of(source, folder / "statistics", {"boolq": random_token_ids()})
    write_shrunk_model(source, plan, statistics, folder / "hf")
    return plan


def hide(model: Any, experts: Experts, layer: int, kept: Sequence[int]) -> None:
    """Makes the router of a layer of transformers' model never choose the other experts."""
    mlp = model.model.layers[layer].mlp
    gate = mlp.router if "router" in experts.biases else mlp.gate
    hidden = torch.full((experts.num_experts,), -torch.inf)
    hidden[list(kept)] = 0.0

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight, getattr(gate, "bias", None)) + hidden
        weights, indices = logits.softmax(-1).topk(experts.experts_per_token)
        return logits, weights / weights.sum(-1, keepdim=True) if experts.is_normalised else weights, indices

    gate.forward = forward


@pytest.mark.parametrize("variation", ["mixtral-all", "qwen3_moe-some", "qwen3_moe-all", "gpt_oss"])
def test_it_is_the_dense_model_whose_routers_never_choose_the_removed_experts(variation: str, tmp_path: Path) -> None:
    full = {"layer_types": ["full_attention"] * 3} if variation == "gpt_oss" else {"sliding_window": None}
    source = micro_source(tmp_path / "dense", variation, **full)
    shrunk_plan = shrunk(source, tmp_path, "none")
    model = transformers_model(tmp_path / "dense")
    dense = masked_logits(model)
    for index, layer in enumerate(source.spec.layers):
        for experts in (one for one in layer.sublayers if isinstance(one, Experts)):
            hide(model, experts, index, shrunk_plan.layers[index][KeptExperts].units)
        for mlp in (model.model.layers[index].mlp for one in layer.outputs if one == "down_proj" and index):
            mlp.down_proj.weight.data[:, 1::2] = 0.0  # a layer without experts has lost neurons
    has_sinks, last = source.spec.layers[2][Attention].has_sinks, model.model.layers[2]
    for expert, matrix in enumerate(last.mlp.experts.down_proj.data):
        (matrix.T if has_sinks else matrix)[:, 1 - expert % 2 :: 2] = 0.0
    if has_sinks:  # and whose heads, each with its sink, write nothing
        gone = sorted(set(range(6)) - set(SOME_HEADS))
        last.self_attn.o_proj.weight.data.unflatten(1, (6, -1))[:, gone] = 0.0
    expected = masked_logits(model)
    actual = masked_logits(transformers_model(tmp_path / "hf"))
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))
    assert (expected - dense).abs().max() > 0.1


@pytest.mark.parametrize("variation", ["mixtral-all", "gpt_oss"])
def test_each_tensor_keeps_its_dtype(variation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers and vectors in float32 among matrices in bfloat16, and however many experts are in float32 at once."""
    folder = write_micro_model(tmp_path / "dense", dtype="bfloat16", **VARIATIONS[variation])
    dense = load_file(folder / "model.safetensors")
    for name, tensor in dense.items():
        if tensor.dim() == 1 or name.endswith(("gate.weight", "router.weight")):
            dense[name] = 1.001 * tensor.float()
    save_file(dense, folder / "model.safetensors", {"format": "pt"})
    source, written = open_source(str(folder)), list[bytes]()
    for most in (1 << 30, 0):
        monkeypatch.setattr(working_memory, "_AT_ONCE", most)
        layer = DecoderLayer(source.spec, 0, source.read_layer(0))
        experts = layer.tensors["model.layers.0.mlp.experts.up_proj.weight"]
        assert experts.dtype == (torch.float32 if most else torch.bfloat16)
        (tmp_path / str(most)).mkdir()
        shrunk_plan, out = shrunk(source, tmp_path / str(most), "sequential"), tmp_path / str(most) / "hf"
        written.append((out / "model.safetensors").read_bytes())
    assert written[0] == written[1]
    stored = load_file(out / "model.safetensors")
    compensated = {name for name in stored if name.endswith("o_proj.bias")}
    assert all(stored[name].dtype == dense[name].dtype for name in stored.keys() - compensated)
    assert json.loads((out / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    for index in range(3):
        layer_name = source.spec.family.names["layer"].format(layer=index)
        name = layer_name + source.spec.family.names["router"] + ".weight"
        assert torch.equal(stored[name], dense[name][list(shrunk_plan.layers[index][KeptExperts].units)])
    assert all(torch.equal(stored[name], dense[name]) for name in stored if name.endswith("norm.weight"))


@pytest.mark.parametrize("summed", [4, 1, 0])
@torch.no_grad()
def test_moments_are_of_each_expert_s_channels(summed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_memory, "_SUMMED", summed * 64**2)
    source, texts = micro_source(tmp_path / "m", "mixtral"), random_token_ids(9)
    mixture = mixture_of(source, tmp_path / "statistics", {"boolq": texts})
    statistics = mixture.experts(0, Experts.output)
    layer, batches = DecoderLayer(source.spec, 0, source.read_layer(0)), length_buckets(texts, 4096)
    hidden = HiddenStates.embedded(source.spec, source.read_embedding(), batches)
    hidden.advance(layer, "o_proj")
    parts, _ = layer.channels_and_product(Experts.output, hidden.streams[0], batches[0])
    every = torch.zeros(batches[0].num_tokens, 256, dtype=torch.float64)
    for expert, channels in enumerate(parts):
        every[: len(channels), source.spec.layers[0][Experts].of_expert(expert)] = channels.double()
        expected = channels.double().T @ channels.double() / len(every)
        torch.testing.assert_close(statistics.moment(expert), expected, rtol=1e-4, atol=1e-4 * float(expected.max()))
    every_channel = mixture.layer(0)[Experts.output]
    torch.testing.assert_close(every_channel.mean, every.mean(0), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(every_channel.variance, every.var(0, correction=0), rtol=1e-4, atol=1e-12)
    tokens = (every.unflatten(1, (4, -1)).abs().sum(2) > 0).double().sum(0)
    shares = statistics.shares(source.spec.layers[0][Experts])
    torch.testing.assert_close(shares, tokens / len(every))
    first = mixture.scarce_experts(replace(source.spec, layers=source.spec.layers[:1]))
    assert first == (int((tokens < 64).sum()), 4)


@torch.no_grad()
def test_the_fit_of_each_expert_is_least_squares_with_a_ridge_by_its_own_tokens(tmp_path: Path) -> None:
    """Of a mixture in two models, the second of which has other output projections.

    With one expert for each token, what it writes is all of the product. Tokens count by their hidden states' lengths.
    """
    source = micro_source(tmp_path / "m", "mixtral", num_experts_per_tok=1)
    experts, tensors, output = source.spec.layers[0][Experts], source.read_layer(0), Experts.output
    name = "model.layers.0.mlp.experts.down_proj.weight"
    exact = DecoderLayer(source.spec, 0, tensors, only=output)
    layer = DecoderLayer(source.spec, 0, {**tensors, name: 0.5 * tensors[name]}, only=output)
    batches = length_buckets(random_token_ids(60, longest=40), 256)
    dense, changed = (HiddenStates.embedded(source.spec, source.read_embedding(), batches) for _ in range(2))
    channels, counts = [list[torch.Tensor]() for _ in range(4)], [list[torch.Tensor]() for _ in range(4)]
    for stream, batch in zip(dense.streams, batches, strict=True):
        parts, product = exact.channels_and_product(output, stream, batch)
        count = (stream + product).norm(dim=1).reciprocal()
        for expert, reached in enumerate(router_weights(exact, experts, stream).T):
            channels[expert].append(parts[expert])
            counts[expert].append(count[reached != 0])
    fit = ExpertFit(experts, layer, changed, [torch.ones(batch.num_tokens) for batch in batches])
    dense.advance(exact, output, partial(fit.add, exact))
    fitted = fit.fitted(layer.weight(output), 2.0, lambda one, _: one).double()
    before, wanted = layer.weight(output).double(), exact.weight(output).double()
    for expert in range(4):
        columns, (c, p) = experts.of_expert(expert), (torch.cat(each[expert]).double() for each in (channels, counts))
        p /= p.sum()
        moment = (p[:, None] * c).T @ c
        ridge = 2.0 * moment.trace() * p.square().sum() * torch.eye(len(moment), dtype=torch.float64)
        change = (wanted - before)[:, columns] @ moment @ torch.linalg.inv(moment + ridge)
        torch.testing.assert_close(fitted[:, columns], before[:, columns] + change, rtol=1e-3, atol=1e-4)
