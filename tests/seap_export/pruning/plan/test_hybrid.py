"""Layers with one, two or three sublayers, of kinds that differ from layer to layer, are planned alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from support.plans import random_scores, scored_options, small_spec
from support.product import CostModel, LayerPlan
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import Attention, LayerSpec, Mamba, Mlp, ModelSpec, model_spec
from seap_export.pruning.plan import sublayers as kinds
from seap_export.pruning.plan.choice.layer import LayerChoices
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, solve_layers
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.plan.settings import Balance
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS, Sparsity
from seap_export.pruning.plan.sublayers import KeptHeads, KeptMamba, KeptNeurons, whole_words
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels


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


def removed(spec: ModelSpec, layers: Sequence[LayerPlan]) -> float:
    """The fraction of the weights that is removed."""
    shrunk = [plan.spec(layer, frozenset()) for plan, layer in zip(layers, spec.layers, strict=True)]
    left = sum(sublayer.weights(spec.hidden_size) for layer in shrunk for sublayer in layer.sublayers)
    return 1.0 - left / sum(spec.prunable_weights(index) for index in range(4))


@pytest.mark.parametrize("stays_whole", [False, True])
@pytest.mark.parametrize(
    ("kind", "balance"), [*((kind, "loss") for kind in SPARSITY_KINDS), ("uniform", "alike"), ("logistic", "alike")]
)
def test_the_ratio_is_achieved(kind: Any, balance: Balance, stays_whole: bool) -> None:
    """Attention with norms over all heads, of which none can go, stays whole and counts."""
    spec = small_spec(6, 3, 40, layers=4, model_type="olmo2") if stays_whole else hybrid_spec()
    scores = random_scores(spec)
    options, sensitivity = scored_options(spec, scores), np.ones((4, 2 if stays_whole else 3))
    for ratio in (0.1, 0.3, 0.6):
        layers, achieved = solve_layers(
            spec, options, ratio, Sparsity(kind, protect_first=0), 1, balance, scores=scores, sensitivity=sensitivity
        )
        assert achieved == pytest.approx(removed(spec, layers))
        assert achieved == pytest.approx(ratio, abs=3 * RATIO_TOLERANCE)  # attention alone comes in large steps
        assert all(plan.fits(layer) for plan, layer in zip(layers, spec.layers, strict=True))
        assert not stays_whole or {len(plan.named("o_proj").units) for plan in layers} == {6}
    layers, achieved = solve_uniform(spec, options, 0.2, 1, balance, sensitivity)
    sizes = {(sublayer.kind, tuple(sublayer.sizes.items())) for layer in layers for sublayer in layer.sublayers}
    assert len(sizes) == len(sensitivity[0])  # all of a kind have the same
    assert achieved == pytest.approx(removed(spec, layers))
    assert achieved == pytest.approx(0.2, abs=RATIO_TOLERANCE)
    assert not stays_whole or {len(plan.named("o_proj").units) for plan in layers} == {6}


def test_of_three_sublayers_the_best_selection_is_found() -> None:
    spec = hybrid_spec(alike=True)
    choices, sensitivity = LayerChoices(scored_options(spec, random_scores(spec))[0], 4), (1.0, 2.0, 0.5)
    for fraction in (0.3, 0.5, 0.8):
        budget, price = fraction * choices.total_weights, 1e-3 * fraction
        _, weights = choices.best(budget)
        assert abs(weights - budget) <= 4 * 3 * 24 / 2
        chosen = choices.at_price(price, sensitivity, CostModel())
        for weight, option, one in zip(sensitivity, choices.options, chosen, strict=True):
            bills = weight * option.losses + price * option.costs(CostModel())
            assert bills[one] == bills.min()


def test_what_belongs_together_goes_together() -> None:
    """Heads that are normalised together, keys and values that layers share, and what stays whole."""
    spec = model_spec(micro_config(**VARIATIONS["nemotron_h-all"]))
    options: Any = scored_options(spec, random_scores(spec))[0][0]
    assert {len(kept.units) for kept in options.sets} == {3, 6}
    assert options.sets[0].units in ((0, 1, 2), (3, 4, 5))
    assert not KeptMamba(3, (0, 1), (0, 3)).fits(spec.first(Mamba))
    spec = model_spec(micro_config(**VARIATIONS["gemma4-all"]))
    groups = [
        {heads.shrunk(option).num_key_value_heads for option in range(len(heads.losses))}
        for heads, *_ in scored_options(spec, random_scores(spec))
    ]
    assert groups == [{1, 2, 3}, {3}, {3}]
    assert "KV heads stay in layers that share keys and values" in whole_words(spec)
    layer = small_spec(6, 3, 40, model_type="olmo2").layers[0]
    for heads in ((0, 1, 2, 3), range(6)):
        plan = LayerPlan((KeptHeads.of(layer[Attention], tuple(heads)), KeptNeurons((1, 2))))
        assert plan.fits(layer) is (len(heads) == 6)
