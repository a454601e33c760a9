"""Plans of micro models, layers with scores that no text gave, and what a refit loses."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    LayerSpec,
    Mamba,
    Mlp,
    ModelSpec,
    SharedExpert,
    Sublayer,
    model_spec,
)
from seap_export.model.families.sublayers import Grouped
from seap_export.model.sources.source import Source
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.plan import LayerPlan, Plan
from seap_export.pruning.plan.settings import Compensation, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN
from seap_export.pruning.plan.sublayers import (
    HeadOptions,
    Kept,
    KeptConvolution,
    KeptDeltaNet,
    KeptExperts,
    KeptHeads,
    KeptInputs,
    KeptMamba,
    KeptNeurons,
    KeptShared,
    LayerOptions,
    NeuronOptions,
)
from seap_export.pruning.plan.sublayers.attention import keeps_heads
from seap_export.pruning.scores import LayerScores
from seap_export.pruning.shrink.write import write_shrunk_model
from support.calibration import mixture_of
from support.corpora import random_token_ids
from support.models import micro_source, skip_unless_loaded
from support.variations import micro_config

#: Of a dense micro model.
NEURONS = 80
_SETTINGS = PlanSettings("wifv", EVEN, align=1, balance="alike", compensation="none", ridge=0.5, distillation=0.0)


def layer_plan(layer: LayerSpec, dropped_group: int | None, dropped_head: int | None, neurons: range) -> LayerPlan:
    """Without one KV group, if there are several, and in each other group without one head, another in each.

    A convolution that loses something loses every third channel, a gated delta net heads like attention, and a mixture
    loses its first expert where neurons are lost.
    """
    kept: list[Kept] = []
    for one in layer.sublayers:
        if isinstance(one, Convolution):
            cut = None if (dropped_group, dropped_head) == (None, None) else dropped_head or 0
            channels = (channel for channel in range(one.conv_dim) if cut is None or (channel + cut) % 3)
            kept.append(KeptConvolution(tuple(channels)))
        elif isinstance(one, Grouped):
            kept.append(_heads(one, dropped_group, dropped_head))
        elif isinstance(one, Experts):
            experts = range(int(len(neurons) < NEURONS), one.num_experts)
            kept.append(KeptExperts(tuple(experts), one.moe_intermediate_size))
        elif isinstance(one, LayerInput):
            kept.append(KeptInputs(tuple(range(one.channels))))
        else:
            kept.append((KeptShared if isinstance(one, SharedExpert) else KeptNeurons)(tuple(neurons)))
    return LayerPlan(tuple(kept))


def _heads(one: Grouped, dropped_group: int | None, dropped_head: int | None) -> Kept:
    size, number = one.heads_per_group, one.heads // one.heads_per_group
    if one.whole_because:
        dropped_group = dropped_head = None
    dropped_group = None if dropped_group is None or one.fixed_groups else dropped_group % number
    dropped_head = None if one.keeps_groups else dropped_head
    groups = [g for g in range(number) if number == 1 or g != dropped_group]
    cut = None if size == 1 else dropped_head
    heads = [g * size + h for g in groups for h in range(size) if cut is None or h != (g + cut) % size]
    kept_type = {Attention: KeptHeads, DeltaNet: KeptDeltaNet, Mamba: KeptMamba}[type(one)]
    return kept_type(tuple(heads), size, tuple(groups))


def kept_layer(size: int, kv_groups: Iterable[int], heads: Iterable[int], neurons: Iterable[int]) -> LayerPlan:
    """What a layer of attention and MLP keeps; `size` is the number of heads in a KV group of the dense layer."""
    return LayerPlan((KeptHeads(tuple(heads), size, tuple(kv_groups)), KeptNeurons(tuple(neurons))))


def whole_layer(layer: LayerSpec) -> LayerPlan:
    neurons = (one.channels for one in layer.sublayers if isinstance(one, Mlp))
    return layer_plan(layer, None, None, range(next(neurons, NEURONS)))


def plan_of(source: Source, layers: Sequence[LayerPlan], compensation: Compensation, **values: Any) -> Plan:
    origin: dict[str, Any] = {"source_name": source.name, "source_sha256": source.digest, "method": "custom"}
    asked: dict[str, Any] = {"task": "boolq", "weights": {"boolq": 1.0}, "requested_ratio": 0.3, "achieved_ratio": 0.3}
    plan = Plan(**origin, **asked, settings=_SETTINGS, layers=tuple(layers))
    return with_settings(plan, compensation=compensation, **values)


def with_settings(plan: Plan, **values: Any) -> Plan:
    """The plan with other values, some of them of its settings."""
    names = {field.name for field in dataclasses.fields(PlanSettings)}
    settings = {name: value for name, value in values.items() if name in names}
    others = {name: value for name, value in values.items() if name not in names}
    return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, **settings), **others)


def uniform_plan(source: Source, compensation: Compensation, **values: Any) -> Plan:
    """All layers of one shape, half as wide, but each keeps other groups, heads (if they may go) and neurons.

    Convolutions stay whole, and linear attention loses one key head.
    """
    attention = source.spec.first(Attention)
    size, all_groups = attention.heads_per_group, attention.num_key_value_heads
    left, each = {6: 3, 3: 2, 1: 1}[all_groups], max(size // 2, 1)
    if keeps_heads(source.spec) or attention.whole_because:
        left, each = all_groups, size
    left = all_groups if any(one.fixed_groups for one in source.spec.all(Attention)) else left
    layers = []
    for index, layer in enumerate(source.spec.layers):
        neurons, kinds = range(index, index + 48), set(map(type, layer.sublayers))
        if Convolution in kinds:
            layers.append(layer_plan(layer, None, None, neurons))
            continue
        if kinds & {DeltaNet, Mamba} or Attention not in kinds:
            layers.append(layer_plan(layer, index, None, neurons))
            continue
        groups = sorted((index + offset) % all_groups for offset in range(left))
        heads = [group * size + (index + group + offset) % size for group in groups for offset in range(each)]
        kept = kept_layer(size, groups, sorted(heads), neurons)
        kept = kept if Mlp in kinds or Experts in kinds else LayerPlan((kept[KeptHeads],))
        inputs = (KeptInputs(tuple(range(one.channels))) for one in layer.sublayers if isinstance(one, LayerInput))
        kept = LayerPlan((*kept.sublayers, *inputs))
        for experts in (one for one in layer.sublayers if isinstance(one, Experts)):
            others = (expert for expert in range(experts.num_experts) if expert != index)
            kept = LayerPlan((kept[KeptHeads], KeptExperts(tuple(others), experts.moe_intermediate_size)))
        layers.append(kept)
    return plan_of(source, layers, compensation, layout="uniform", **values)


def micro_plan(source: Source, compensation: Compensation, **values: Any) -> Plan:
    """The first layer stays whole, the second loses heads, a KV group and neurons, the last one heads only."""
    first, second, last = source.spec.layers
    size = source.spec.first(Attention).heads_per_group
    layers = (
        layer_plan(first, None, None, range(NEURONS)),
        layer_plan(second, 0, 0, range(1, NEURONS, 3)),
        layer_plan(last, None if size > 1 else 4, 1, range(NEURONS)),
    )
    return plan_of(source, layers, compensation, **values)


def write_pruned_micro_model(
    folder: Path, variation: str, compensation: Compensation = "bias", dtype: str = "float32", **values: Any
) -> Path:
    """The folder `hf/` of a pruned micro model of one of the variations; `values` replace its dense config's."""
    with tempfile.TemporaryDirectory() as temporary:
        source = micro_source(Path(temporary) / "dense", variation, dtype, **values)
        skip_unless_loaded(source.spec.family, "per-layer")
        statistics = mixture_of(source, Path(temporary) / "statistics", {"boolq": random_token_ids()})
        folder.mkdir(parents=True)
        write_shrunk_model(source, micro_plan(source, compensation), statistics, folder)
    return folder


def small_spec(heads: int, kv_groups: int, neurons: int, layers: int = 1, **values: Any) -> ModelSpec:
    """A llama of width 24 with heads of 4 channels."""
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_groups, "intermediate_size": neurons}
    sizes = {"hidden_size": 24, "head_dim": 4, "num_hidden_layers": layers}
    return model_spec(micro_config(**{"model_type": "llama", **sizes, **shape, **values}))


def smollm2_spec(**values: Any) -> ModelSpec:
    shape = {"num_hidden_layers": 30, "hidden_size": 576, "head_dim": 64, "intermediate_size": 1536}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    return model_spec(micro_config(**{"model_type": "llama", **shape, **heads, **values}))


def scores_of(heads: Any, neurons: Any, head_dim: int = 4) -> LayerScores:
    """Scores of heads whose channels are all alike."""
    channels = torch.as_tensor(heads, dtype=torch.float64)[:, None].expand(-1, head_dim)
    return {"o_proj": channels, "down_proj": torch.as_tensor(neurons, dtype=torch.float64)}


def random_scores(spec: ModelSpec, head_worth: float = 1.0, seed: int = 0) -> list[LayerScores]:
    """Scores between 0 and 1 of every layer; those of heads times `head_worth`."""
    generator = torch.Generator().manual_seed(seed)

    def score(one: Sublayer) -> torch.Tensor:
        heads = one.channels // one.unit
        shape = (heads, one.unit) if one.unit > 1 else (heads,)
        worth = head_worth if isinstance(one, Attention) else 1.0
        return worth * torch.rand(shape, generator=generator, dtype=torch.float64)

    return [{one.output: score(one) for one in layer.sublayers} for layer in spec.layers]


def scored_options(spec: ModelSpec, scores: list[LayerScores]) -> list[LayerOptions]:
    return [options_from_scores(spec, index, layer) for index, layer in enumerate(scores)]


def both(options: LayerOptions) -> tuple[HeadOptions, NeuronOptions]:
    heads, neurons = options
    assert isinstance(heads, HeadOptions) and isinstance(neurons, NeuronOptions)  # noqa: PT018
    return heads, neurons


def assert_same_options(one: LayerOptions, other: LayerOptions) -> None:
    (heads, neurons), (other_heads, other_neurons) = both(one), both(other)
    assert heads.sets == other_heads.sets
    assert (heads.losses == other_heads.losses).all()
    assert (neurons.order == other_neurons.order).all()
    assert (neurons.loss_of == other_neurons.loss_of).all()


def attention_cost(spec: ModelSpec, cost: CostModel, heads: int, kv_groups: int, layer: int = 0) -> int:
    shrunk = spec.layers[layer].changed(num_attention_heads=heads, num_key_value_heads=kv_groups)[Attention]
    return HeadOptions.cost_of(shrunk, spec.hidden_size, cost)


def kept_sizes(layer: LayerPlan) -> tuple[int, int, int]:
    """How many KV groups, query heads and neurons a layer keeps."""
    heads, sizes = layer[KeptHeads], layer.sizes
    return len(heads.groups), len(heads.units), sizes.get("intermediate_size", 0)


def random_sensitivity(spec: ModelSpec, seed: int = 0) -> np.ndarray:
    """Between 0.1 and 10, for each sublayer of every layer."""
    most = max(len(layer.sublayers) for layer in spec.layers)
    return 10.0 ** np.random.default_rng(seed).uniform(-1.0, 1.0, (len(spec.layers), most))


def random_projection(
    channels: int, tokens: int = 40, out: int = 5, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A float32 weight [out, channels] and the covariance of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, channels, generator=generator)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, channels, generator=generator, dtype=torch.float64) @ mixing
    inputs *= torch.linspace(0.2, 2.0, channels, dtype=torch.float64)
    return weight, covariance_of(inputs)


def covariance_of(inputs: torch.Tensor) -> torch.Tensor:
    centred = inputs - inputs.mean(0)
    return centred.T @ centred / len(inputs)


def refitted_loss(weight: torch.Tensor, covariance: torch.Tensor, kept: Iterable[int], ridge: float) -> float:
    """min over D of E|W_R x_R - D x_K|^2 + r |D|^2: D from the normal equations, then both terms as they are.

    `ridge` is relative to the sum of the variances of all channels.
    """
    strength = ridge * float(covariance.trace())
    keep = sorted(kept)
    gone = [channel for channel in range(weight.shape[1]) if channel not in keep]
    regular = covariance[keep][:, keep] + strength * torch.eye(len(keep), dtype=torch.float64)
    added = weight.double()[:, gone] @ covariance[gone][:, keep] @ torch.linalg.inv(regular)
    change = torch.zeros(weight.shape, dtype=torch.float64)
    change[:, gone], change[:, keep] = weight.double()[:, gone], -added
    return float((change @ covariance * change).sum() + strength * added.square().sum())
