"""Layers with one, two or three sublayers, of kinds that differ from layer to layer, are planned alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.plans import random_scores, scored_options, small_spec
from support.variations import VARIATIONS, micro_config

from seap_export.errors import UsageError
from seap_export.model.families import Attention, LayerSpec, Mamba, Mlp, ModelSpec, model_spec
from seap_export.pruning.plan import sublayers as kinds
from seap_export.pruning.plan.choice.layer import LayerChoices
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, check_ratio, solve_layers
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.layer_options import options_from_elimination, options_from_scores
from seap_export.pruning.plan.plan import LayerPlan
from seap_export.pruning.plan.ranked import finish_ranking, read_ranking, write_options, write_scores
from seap_export.pruning.plan.settings import BALANCES, Balance
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS, Sparsity
from seap_export.pruning.plan.sublayers import KeptHeads, KeptMamba, KeptNeurons, whole_words
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels
from seap_export.pruning.scores import LayerScores


class Mixer(Mlp):
    """A further kind, with single channels."""

    output = "v_proj"
    size_keys = ("intermediate_size",)


@dataclass(frozen=True)
class KeptMixer(KeptChannels):
    kind, name, unit, panel = Mixer, "mixer", "mixer channels", ("mixer channels", "channel")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {"intermediate_size": ("mixer", "mixer channels")}

    mixer: tuple[int, ...]


class MixerOptions(ChannelOptions[Mixer]):
    kept_type, scores_name = KeptMixer, "mixer"
    tensor_names = ("mixer_order", "mixer_loss")


@pytest.fixture(autouse=True)
def _further_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "OPTIONS", {**kinds.OPTIONS, Mixer: MixerOptions})


def hybrid_spec(alike: bool = False) -> ModelSpec:
    """All three, attention alone, mixer and MLP, MLP alone; or four times all three."""
    spec = small_spec(6, 3, 40)
    attention, mlp, mixer = spec.layers[0][Attention], spec.layers[0][Mlp], Mixer(intermediate_size=24)
    every = LayerSpec((attention, mixer, mlp))
    others = [LayerSpec((attention,)), LayerSpec((mixer, mlp)), LayerSpec((mlp,))]
    return spec.with_layers((every,) * 4 if alike else (every, *others))


def scores_of(spec: ModelSpec) -> list[LayerScores]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            sublayer.output: torch.rand(
                *((sublayer.channels // sublayer.unit, sublayer.unit) if sublayer.unit > 1 else (sublayer.channels,)),
                generator=generator,
                dtype=torch.float64,
            )
            for sublayer in layer.sublayers
        }
        for layer in spec.layers
    ]


def weights_left(spec: ModelSpec, layers: tuple[LayerPlan, ...]) -> int:
    shrunk = [plan.spec(layer, frozenset()) for plan, layer in zip(layers, spec.layers, strict=True)]
    return sum(sublayer.weights(spec.hidden_size) for layer in shrunk for sublayer in layer.sublayers)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6])
@pytest.mark.parametrize(
    ("kind", "balance"), [*((kind, "loss") for kind in SPARSITY_KINDS), ("uniform", "alike"), ("logistic", "alike")]
)
def test_the_ratio_is_achieved(kind: Any, balance: Balance, ratio: float) -> None:
    spec = hybrid_spec()
    scores, sensitivity = scores_of(spec), np.ones((4, 3))
    options = [options_from_scores(spec, index, layer) for index, layer in enumerate(scores)]
    layers, achieved = solve_layers(
        spec, options, ratio, Sparsity(kind), 1, balance, scores=scores, sensitivity=sensitivity
    )
    total = sum(spec.prunable_weights(index) for index in range(4))
    assert achieved == pytest.approx(1.0 - weights_left(spec, layers) / total)
    assert achieved == pytest.approx(ratio, abs=3 * RATIO_TOLERANCE)  # attention alone comes in large steps
    assert all(plan.fits(layer) for plan, layer in zip(layers, spec.layers, strict=True))


def test_of_three_sublayers_the_best_selection_is_found() -> None:
    spec = hybrid_spec(alike=True)
    options = options_from_scores(spec, 0, scores_of(spec)[0])
    choices = LayerChoices(options, 4)
    heads, mixer, mlp = choices.options
    for fraction in (0.3, 0.5, 0.8):
        budget = fraction * choices.total_weights
        _, weights = choices.best(budget)
        assert abs(weights - budget) <= 4 * 3 * 24 / 2
        price = 1e-3 * fraction
        chosen = choices.at_price(price, (1.0, 2.0, 0.5), CostModel())
        bills = [
            float((weight * option.losses + price * option.costs(CostModel())).min())
            for weight, option in zip((1.0, 2.0, 0.5), (heads, mixer, mlp), strict=True)
        ]
        parts = zip((1.0, 2.0, 0.5), choices.options, chosen, strict=True)
        assert sum(bills) == pytest.approx(
            sum(weight * option.losses[one] + price * option.costs(CostModel())[one] for weight, option, one in parts)
        )


@pytest.mark.parametrize("balance", BALANCES)
def test_in_a_uniform_layout_all_sublayers_of_a_kind_have_the_same_sizes(balance: Balance) -> None:
    spec = hybrid_spec()
    options = [options_from_scores(spec, index, layer) for index, layer in enumerate(scores_of(spec))]
    layers, achieved = solve_uniform(spec, options, 0.2, 1, balance, np.ones((4, 3)))
    sizes: dict[Any, Any] = {}
    assert all(
        sizes.setdefault(sublayer.kind, sublayer.sizes) == sublayer.sizes
        for layer in layers
        for sublayer in layer.sublayers
    )
    assert len(sizes) == 3
    left = sum(
        kept.spec(whole).weights(24)
        for layer, dense in zip(layers, spec.layers, strict=True)
        for kept, whole in zip(layer.sublayers, dense.sublayers, strict=True)
    )
    assert achieved == pytest.approx(1 - left / sum(map(spec.prunable_weights, range(4))))
    assert achieved == pytest.approx(0.2, abs=RATIO_TOLERANCE)


def test_sublayers_of_a_kind_that_differ_in_the_dense_model_have_no_uniform_layout() -> None:
    spec = hybrid_spec()
    spec = spec.with_layers((*spec.layers[:3], spec.layers[3].changed(intermediate_size=39)))
    options = [options_from_scores(spec, index, layer) for index, layer in enumerate(scores_of(spec))]
    with pytest.raises(UsageError, match="differ in shape; leave out --layout uniform"):
        solve_uniform(spec, options, 0.2, 1, "loss", np.ones((4, 3)))


def test_rankings_of_scores_and_of_elimination_come_back(tmp_path: Path) -> None:
    spec = hybrid_spec()
    generator = torch.Generator().manual_seed(1)
    for index, layer in enumerate(spec.layers):
        weights = {
            sublayer.output: torch.randn(24, sublayer.channels, generator=generator) for sublayer in layer.sublayers
        }
        covariances = {
            sublayer.output: torch.eye(sublayer.channels, dtype=torch.float64) for sublayer in layer.sublayers
        }
        write_options(tmp_path, index, options_from_elimination(spec, index, weights, covariances, ridge=0.01))
    finish_ranking(tmp_path, torch.ones(4, 3, dtype=torch.float64))
    ranking = read_ranking(spec, tmp_path)
    assert ranking.scores is None
    assert [[type(option.dense) for option in layer] for layer in ranking.options] == [
        [type(sublayer) for sublayer in layer.sublayers] for layer in spec.layers
    ]
    scores = scores_of(spec)
    for index, layer in enumerate(spec.layers):
        write_scores(tmp_path, index, layer, scores[index])
    read = read_ranking(spec, tmp_path).scores
    assert read is not None
    for found, written in zip(read, scores, strict=True):
        assert found.keys() == written.keys()
        assert all(torch.equal(found[output], written[output]) for output in written)


def olmo_spec() -> ModelSpec:
    """Attention with norms over all heads, of which none can go."""
    return small_spec(6, 3, 40, layers=4, model_type="olmo2")


@pytest.mark.parametrize(
    ("kind", "balance"), [*((kind, "loss") for kind in SPARSITY_KINDS), ("uniform", "alike"), ("logistic", "alike")]
)
def test_what_cannot_be_cut_stays_whole_and_counts(kind: Any, balance: Balance) -> None:
    spec = olmo_spec()
    scores, sensitivity = scores_of(spec), np.ones((4, 2))
    options = [options_from_scores(spec, index, layer) for index, layer in enumerate(scores)]
    layers, achieved = solve_layers(
        spec, options, 0.3, Sparsity(kind, protect_first=0), 1, balance, scores=scores, sensitivity=sensitivity
    )
    assert {len(plan.named("o_proj").units) for plan in layers} == {6}
    total = sum(spec.prunable_weights(index) for index in range(4))
    assert achieved == pytest.approx(1.0 - weights_left(spec, layers) / total)
    assert achieved == pytest.approx(0.3, abs=RATIO_TOLERANCE)
    uniform, achieved = solve_uniform(spec, options, 0.3, 1, balance, sensitivity)
    assert {len(plan.named("o_proj").units) for plan in uniform} == {6}
    assert achieved == pytest.approx(0.3, abs=RATIO_TOLERANCE)


def test_a_plan_that_cuts_what_stays_whole_does_not_fit() -> None:
    layer = olmo_spec().layers[0]
    heads, neurons = KeptHeads.of(layer[Attention], (0, 1, 2, 3)), KeptNeurons((1, 2))
    assert not LayerPlan((heads, neurons)).fits(layer)
    assert LayerPlan((KeptHeads.of(layer[Attention], tuple(range(6))), neurons)).fits(layer)


def test_the_largest_ratio_counts_all_sublayers() -> None:
    spec = hybrid_spec()
    smallest = {Attention: 2 * 2 * 24 * 4, Mlp: 3 * 24, Mixer: 3 * 24}
    kept = sum(smallest[type(sublayer)] for sublayer in spec.sublayers)
    most = 1.0 - kept / sum(spec.prunable_weights(index) for index in range(4))
    check_ratio(spec, most, Sparsity("adaptive"), 1)
    with pytest.raises(UsageError, match=f"at most {most:.3f} can be removed"):
        check_ratio(spec, most + 0.01, Sparsity("adaptive"), 1)


def test_heads_that_are_normalised_together_go_together() -> None:
    spec = model_spec(micro_config(**VARIATIONS["nemotron_h-all"]))
    mamba = spec.first(Mamba)
    options: Any = scored_options(spec, random_scores(spec))[0][0]
    assert [kept.units for kept in options.sets] in (
        [tuple(range(3)), tuple(range(6))],
        [tuple(range(3, 6)), tuple(range(6))],
    )
    assert not KeptMamba(3, (0, 1), (0, 3)).fits(mamba)


def test_layers_that_share_keys_and_values_keep_all_of_them() -> None:
    spec = model_spec(micro_config(**VARIATIONS["gemma4-all"]))
    groups = [
        {heads.shrunk(option).num_key_value_heads for option in range(len(heads.losses))}
        for heads, *_ in scored_options(spec, random_scores(spec))
    ]
    assert groups == [{1, 2, 3}, {3}, {3}]
    assert "KV heads stay in layers that share keys and values" in whole_words(spec)
