"""A description that computes something else than transformers' own class stops the run at the first layer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import statistics_in
from support.corpora import random_token_ids
from support.editing import edit_weights
from support.models import micro_source, skip_unless_loaded, write_micro_model
from support.product import Attention, Mlp, Source, open_source
from support.stand_ins.families import WRONG_FAMILIES, describe_gemma3
from support.variations import VARIATIONS

from seap_export.errors import EnvironmentFailure, InputError
from seap_export.model.families import Experts, LayerInput, LayerSpec, ModelSpec, QueryScaling, family_of_model_type
from seap_export.model.layers.sublayers import experts
from seap_export.pruning.activations import walk_check
from seap_export.pruning.activations.walk_check import WalkCheck, short_context

#: Where what does not show in the first layer shows first: only the second of three layers has a window.
FIRST_NOTICED = {
    "window": "layer 1",
    "local rotation": "layer 1",
    "embedding multiplier": "the embedding",
    "soft cap of logits": "the logits",
}


@pytest.mark.parametrize("left_out", WRONG_FAMILIES)
def test_what_is_left_out_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    folder = write_micro_model(tmp_path / "model", **VARIATIONS["gemma3-all"])
    describe_gemma3(monkeypatch, **WRONG_FAMILIES[left_out](family_of_model_type("gemma3_text")))
    where, layers = FIRST_NOTICED.get(left_out, "layer 0"), list[int]()
    with pytest.raises(InputError, match=f"from {where} on, .*'gemma3_text'"):
        statistics_in(tmp_path / "statistics", open_source(str(folder)), random_token_ids(), on_layer=layers.append)
    assert layers == list(range({"the embedding": 0, "layer 0": 0, "layer 1": 1, "the logits": 3}[where]))


Change = Callable[[ModelSpec], ModelSpec]


def _layers(**changes: Any) -> Change:
    return lambda spec: spec.with_layers(tuple(layer.changed(**changes) for layer in spec.layers))


def _ropes(**changes: Any) -> Change:
    return lambda spec: _layers(rope=dataclasses.replace(spec.ropes[0], **changes))(spec)


def _kind(kind: type, **changes: Any) -> Change:
    def changed(layer: LayerSpec) -> LayerSpec:
        of_kind = (dataclasses.replace(one, **changes) if isinstance(one, kind) else one for one in layer.sublayers)
        return LayerSpec(tuple(of_kind))

    return lambda spec: spec.with_layers(tuple(map(changed, spec.layers)))


def _part(name: str, **changes: Any) -> Change:
    return lambda spec: dataclasses.replace(spec, **{name: dataclasses.replace(getattr(spec, name), **changes)})


@pytest.mark.parametrize(
    ("variation", "change", "where"),
    [
        ("starcoder2-all", _part("norm", is_centred=False), "layer 0"),
        ("jais2", _kind(Mlp, beside=True), "layer 0"),
        ("cohere", _ropes(interleaved=False), "layer 0"),
        ("cohere", _part("block", logits_multiplier=0.5), "the logits"),
        ("cohere2", _ropes(), "layer 1"),  # the only one without a window does not rotate
        ("opt", lambda spec: dataclasses.replace(spec, position_offset=0), "the embedding"),
        ("gemma4-all", _kind(LayerInput, layer=2), "layer 0"),
        ("hunyuan_moe", _kind(Experts, experts_per_token=2), "layer 1"),  # each layer has another number
        ("nemotron_h", _layers(activation="relu"), "layer 2"),  # the only one with an MLP
    ],
)
def test_what_differs_is_noticed(tmp_path: Path, variation: str, change: Change, where: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    skip_unless_loaded(source.spec.family)
    _walk(source)
    with pytest.raises(InputError, match=f"from {where} on"):
        _walk(dataclasses.replace(source, spec=change(source.spec)))


def test_a_release_of_transformers_without_the_class_is_named(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    wrong = dataclasses.replace(source.spec.family, architecture="LlamaOfTomorrowForCausalLM")
    other = dataclasses.replace(source, spec=dataclasses.replace(source.spec, family=wrong))
    with pytest.raises(EnvironmentFailure, match=r"transformers [\d.]+ has no LlamaOfTomorrowForCausalLM"):
        _walk(other)


@torch.no_grad()
def _walk(source: Source) -> None:
    check = WalkCheck(source, random_token_ids(longest=30), source.read_embedding())
    for index in range(len(source.spec.layers)):
        check.layer(index, source.read_layer(index))
    check.logits(source.read_norm(), source.read_head())


def _edited(folder: Path, variation: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Source:
    """A micro model with changed weights."""
    micro_source(folder, variation)
    edit_weights(folder, change)
    return open_source(str(folder))


def test_half_precision_and_large_activations_pass(tmp_path: Path) -> None:
    """Differences are counted in the size of a token's values."""
    for variation, dtype in (("gemma3-all", "bfloat16"), ("phi3-all", "float16")):
        statistics_in(tmp_path / dtype, micro_source(tmp_path / variation, variation, dtype), random_token_ids(3))
    factors = {"model.embed_tokens.weight": 1e4, "model.layers.1.mlp.down_proj.weight": 1e3}
    large = _edited(tmp_path / "large", "llama-gqa", lambda held: [held[name].mul_(factors[name]) for name in factors])
    statistics_in(tmp_path / "statistics", large, random_token_ids())


@pytest.mark.parametrize(("rows", "tie"), [(2, 1e-4), (2, -1.0), (4, 1e-4)])
def test_a_router_may_choose_a_tie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, tie: float) -> None:
    def level(tensors: dict[str, torch.Tensor]) -> None:
        for gate in (tensor for name, tensor in tensors.items() if "block_sparse_moe.gate" in name):
            gate[:rows] = gate[0].clone() * (rows == 2)

    source, choose = _edited(tmp_path / "model", "mixtral", level), experts.routing_weights
    monkeypatch.setattr(
        experts, "routing_weights", lambda logits, rules, bias: choose(logits.flip(-1), rules, bias).flip(-1)
    )
    monkeypatch.setattr(walk_check, "_TIE", tie)
    message = "the router of layer 0 does not tell experts apart" if rows == 4 else "from layer 0 on"
    with pytest.raises(InputError, match=message) if (rows, tie) != (2, 1e-4) else contextlib.nullcontext():
        statistics_in(tmp_path / "statistics", source, random_token_ids())


def _long_table(spec: ModelSpec) -> ModelSpec:
    parameters = spec.ropes[0].parameters
    return _ropes(parameters={**parameters, "long_factor": parameters["short_factor"]})(spec)


def _query_scaling(spec: ModelSpec) -> ModelSpec:
    scaling = spec.first(Attention).query_scaling
    assert scaling is not None
    return _layers(query_scaling=QueryScaling(2 * scaling.beta, scaling.context))(spec)


@pytest.mark.parametrize(
    ("variation", "lengths", "change"),
    [
        ("phi3-all", {"original_max_position_embeddings": 100, "sliding_window": 90}, _long_table),
        ("ministral3-all", {}, _query_scaling),
        ("gemma3-all", {"sliding_window": 100}, None),
    ],
)
def test_both_sides_are_shortened(tmp_path: Path, variation: str, lengths: dict[str, int], change: Any) -> None:
    """Lengths are far beyond the texts, as real models have them."""
    values = {**VARIATIONS[variation], **lengths}
    if "rope_parameters" in values:
        values["rope_parameters"] = {**values["rope_parameters"], "original_max_position_embeddings": 100}
    source = open_source(str(write_micro_model(tmp_path / "m", **values)))
    skip_unless_loaded(source.spec.family)
    config, spec = short_context(source.config, source.spec, 10)
    assert (config, spec) != (source.config, source.spec)
    _walk(source)
    if change is not None:
        with pytest.raises(InputError, match="layer 0"):
            _walk(dataclasses.replace(source, spec=change(source.spec)))
