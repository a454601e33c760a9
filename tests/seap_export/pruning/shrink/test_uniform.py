"""In the uniform layout a shrunk model is a plain one of its family, as transformers' own classes load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.calibration import single_mixture
from support.chosen import JOINT, VARIED_JOINT, featured, in_turn
from support.models import masked_logits, transformers_model, why_not_loaded, write_micro_model
from support.plans import (
    kept_sizes,
    layer_plan,
    plan_of,
    random_scores,
    random_sensitivity,
    scored_options,
    uniform_plan,
    whole_layer,
    with_settings,
)
from support.product import (
    COMPENSATIONS,
    OUTPUTS,
    Calibration,
    Compensation,
    Plan,
    Source,
    StoredForm,
    open_source,
    portable_config,
)
from support.shrunk import Shrunk, shrink_folder, shrink_micro
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig, AutoModelForCausalLM

from seap_export.model.families import Attention, Mamba, Mlp, dense_config, model_spec
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.plan.settings import LAYOUTS
from seap_export.pruning.plan.sublayers.attention import keeps_heads
from seap_export.pruning.shrink.write import write_shrunk_model

#: Config keys that give projections a bias, and the projections.
SWITCHES = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
}


@pytest.fixture
def shrink(tmp_path: Path, random_calibration: Callable[[Source], Calibration]) -> Callable[..., Shrunk]:
    def make(
        variation: str = "llama-gqa",
        compensation: Compensation = "one-shot",
        plan: Callable[[Source, Compensation], Plan] = uniform_plan,
    ) -> Shrunk:
        return shrink_micro(tmp_path, random_calibration, variation, compensation, plan)

    return make


def whole_plan(source: Source, compensation: Compensation) -> Plan:
    return plan_of(source, [whole_layer(layer) for layer in source.spec.layers], compensation, layout="uniform")


def neurons_only(source: Source, compensation: Compensation, neurons: int = 40) -> Plan:
    """All heads stay."""
    layers = [layer_plan(layer, None, None, range(neurons)) for layer in source.spec.layers]
    return plan_of(source, layers, compensation, layout="uniform")


@pytest.mark.parametrize(("variation", "compensation"), in_turn(JOINT, COMPENSATIONS))
def test_the_family_s_own_class_loads_it_and_computes_what_the_masked_dense_model_does(
    shrink: Callable[..., Shrunk], variation: str, compensation: Compensation
) -> None:
    shrunk = shrink(variation, compensation)
    family = shrunk.source.spec.family
    if reason := why_not_loaded(family, "uniform"):
        pytest.skip(reason)
    _, info = AutoModelForCausalLM.from_pretrained(shrunk.folder, output_loading_info=True, trust_remote_code=False)
    assert not any(info.values())
    model = transformers_model(shrunk.folder)
    assert type(model) is getattr(transformers, family.architecture)
    actual, expected = masked_logits(model), masked_logits(shrunk.masked_dense_model())
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))
    assert (actual - masked_logits(transformers_model(shrunk.dense))).abs().max() > 0.1  # the plan matters
    spec = shrunk.plan.shrunk_spec(shrunk.source.spec)
    assert {name: tuple(tensor.shape) for name, tensor in shrunk.stored().items()} == StoredForm(spec).shapes
    assert model_spec(shrunk.config()) == spec


@pytest.mark.parametrize("variation", featured(JOINT))
def test_the_family_s_class_takes_every_number_of_heads_that_a_plan_may_keep(variation: str) -> None:
    groups = "num_kv_heads" if "num_kv_heads" in VARIATIONS[variation] else "num_key_value_heads"
    config = micro_config(**{**VARIATIONS[variation], groups: 6})
    spec = model_spec(config)
    if reason := why_not_loaded(spec.family, "uniform"):
        pytest.skip(reason)
    options, sensitivity = scored_options(spec, random_scores(spec)), random_sensitivity(spec)
    shapes = {
        kept_sizes(solve_uniform(spec, options, ratio, 1, "alike", sensitivity)[0][1])[:2]
        for ratio in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
        if ratio < 0.3 or "mamba" not in variation  # which stays whole
    }
    assert (6, 6) in shapes
    for groups, heads in shapes:
        key = spec.family.key("num_attention_heads")
        values = {**portable_config(config), key: heads, "num_key_value_heads": groups}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
        output = model.get_submodule(spec.family.module("o_proj", 1))
        assert heads * spec.layers[1][Attention].head_dim in output.weight.shape  # GPT-2 has the inputs first


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_config_json_is_the_dense_one_but_for_sizes_and_switches(
    shrink: Callable[..., Shrunk], variation: str
) -> None:
    shrunk = shrink(variation)
    config, dense = shrunk.config(), dict(shrunk.source.config)
    family, changed = shrunk.source.spec.family, {}
    cut = {one.output for one in shrunk.source.spec.all(Mamba) if one.whole_because is None}
    switches = [family.biases.get(output) for output in (*OUTPUTS[int(keeps_heads(shrunk.source.spec)) :], *cut)]
    for one in shrunk.plan.shrunk_spec(shrunk.source.spec).sublayers:
        changed |= {family.key(key): size for key, size in {**one.sizes, **one.derived_sizes}.items()}
    changed |= {switch: True for switch in switches if isinstance(switch, str)}
    if family.layer_types.get("conv"):
        changed["conv_bias"] = True
    assert config.pop("pruned_from").keys() <= changed.keys()
    changed |= {} if family.head_dim_is_derived else {"head_dim": shrunk.source.spec.head_dim}
    assert config == dense | changed
    assert model_spec(dense_config(shrunk.config())) == shrunk.source.spec


def some_heads(source: Source, compensation: Compensation) -> Plan:
    """The second layer loses heads, and the others nothing."""
    layers = [whole_layer(layer) for layer in source.spec.layers]
    (neurons,) = {layer[Mlp].intermediate_size for layer in source.spec.layers}
    layers[1] = layer_plan(source.spec.layers[1], 0, 0, range(neurons))
    return plan_of(source, layers, compensation)


@pytest.mark.parametrize(
    ("variation", "again"), [("llama-gqa", uniform_plan), ("gemma2-all", uniform_plan), ("qwen2", some_heads)]
)
def test_a_shrunk_model_is_shrunk_again(
    shrink: Callable[..., Shrunk],
    random_calibration: Callable[[Source], Calibration],
    tmp_path: Path,
    variation: str,
    again: Callable[[Source, Compensation], Plan],
) -> None:
    once = shrink(variation, "bias", partial(neurons_only, neurons=60))
    twice = shrink_folder(once.folder, tmp_path / "twice", random_calibration, "one-shot", again)
    actual, expected = masked_logits(transformers_model(twice.folder)), masked_logits(twice.masked_dense_model())
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))
    if twice.plan.settings.layout == "uniform":
        assert model_spec(dense_config(twice.config())) == twice.source.spec


def test_the_folder_holds_no_code(shrink: Callable[..., Shrunk]) -> None:
    names = {path.name for path in shrink().folder.iterdir()}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert names == {"config.json", "generation_config.json", "model.safetensors", *tokenizer}


@pytest.mark.parametrize(
    ("variation", "compensation", "plan"),
    [("llama-gqa", "none", uniform_plan), ("qwen2", "one-shot", whole_plan), ("llama-gqa", "sequential", whole_plan)],
)
def test_where_nothing_is_compensated_no_switch_is_turned_on(
    shrink: Callable[..., Shrunk], variation: str, compensation: Compensation, plan: Any
) -> None:
    shrunk = shrink(variation, compensation, plan)
    assert not any(shrunk.config().get(switch) for switch in SWITCHES)
    biases = {name.split(".")[-2] for name in shrunk.stored() if name.endswith(".bias")}
    assert biases == ({"q_proj", "k_proj", "v_proj"} if variation == "qwen2" else set())
    if plan is whole_plan:
        dense = load_file(shrunk.dense / "model.safetensors")
        stored = shrunk.stored()
        assert all(torch.equal(stored[name], dense[name]) for name in stored)


def test_a_sublayer_that_is_not_cut_has_zeros_where_a_later_one_is_fitted(shrink: Callable[..., Shrunk]) -> None:
    """Sequential: attention of the first layer comes before anything is cut."""
    stored = shrink("llama-gqa", "sequential", neurons_only).stored()
    fitted = [bool(stored[f"model.layers.{index}.self_attn.o_proj.bias"].any()) for index in range(3)]
    assert fitted == [False, True, True]


def test_a_uniform_variant_can_be_pruned_again(
    shrink: Callable[..., Shrunk], random_calibration: Callable[[Source], Calibration], tmp_path: Path
) -> None:
    """It is a plain model; what is written then is of the model that it was made from."""
    source = open_source(str(shrink("mistral").folder))
    plan = whole_plan(source, "none")
    for layout in LAYOUTS:
        (tmp_path / layout).mkdir()
        statistics = single_mixture(random_calibration(source))
        write_shrunk_model(source, with_settings(plan, layout=layout), statistics, tmp_path / layout)
        config = json.loads((tmp_path / layout / "config.json").read_text("utf-8"))
        dense = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48}
        assert config.get("pruned_from") == (dense if layout == "uniform" else None)


def test_code_that_a_source_names_is_not_named_again(
    tmp_path: Path, random_calibration: Callable[[Source], Calibration]
) -> None:
    dense = write_micro_model(tmp_path / "dense", model_type="llama", auto_map={"AutoConfig": "other.Config"})
    source = open_source(str(dense))
    (tmp_path / "out").mkdir()
    write_shrunk_model(
        source, uniform_plan(source, "none"), single_mixture(random_calibration(source)), tmp_path / "out"
    )
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
