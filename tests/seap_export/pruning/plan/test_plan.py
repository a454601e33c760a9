"""A plan comes back from disk as it was; one that contradicts itself or the model is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.plans import kept_layer, with_settings
from support.product import EVEN, PlanSettings, Sparsity, Vocabulary
from support.variations import micro_config

from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec, family_of_model_type, model_spec
from seap_export.pruning.plan.plan import LayerPlan, Plan, read_plan, write_plan

#: Of layers with 6 query heads, 3 key/value heads and 80 neurons.
LAYERS = (
    kept_layer(2, (0, 2), (0, 1, 4, 5), range(80)),
    kept_layer(2, (0, 1, 2), (1, 2, 4), (0, 7, 79)),
    kept_layer(2, (0, 1, 2), range(6), range(80)),
)
PLAN = Plan(
    task="general",
    weights={"boolq": 1.0, "piqa": 0.1 + 0.2},
    source_name="micro",
    source_sha256="ab" * 32,
    method="custom",
    settings=PlanSettings(
        "wifv",
        Sparsity("logistic", 0.8, 0.3, 0, 1),
        balance="alike",
        compensation="bias",
        ridge=1.0 / 3.0,
        align=16,
        distillation=0.0,
        mix="plain",
    ),
    requested_ratio=0.3,
    achieved_ratio=0.1 + 0.2,
    layers=LAYERS,
)

EVEN_LAYERS = tuple(kept_layer(2, (0, 2), (0, 5), range(start, start + 48)) for start in (0, 7, 30))
UNIFORM = with_settings(PLAN, layers=EVEN_LAYERS, layout="uniform", sparsity=EVEN)
OUTPUTS = ("o_proj", "down_proj")
BOTH = set(OUTPUTS)


def dense_spec(**values: Any) -> ModelSpec:
    return model_spec(micro_config(**{"model_type": "llama", **values}))


def changed_file(path: Path, **values: Any) -> Path:
    """A written plan with other values; None takes one away."""
    write_plan(PLAN, path)
    content = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")
    return path


def changed_layer(**values: Any) -> list[dict[str, Any]]:
    rows = [layer.to_json() for layer in LAYERS]
    return [rows[0] | values, *rows[1:]]


VOCABULARY = {"tokens": 5, "of": 96, "kept": "4AAAAACAAAAAAAAB"}


@pytest.mark.parametrize(
    ("values", "recorded"),
    [
        ({}, {}),
        ({"group_tolerance": 0.01}, {"group_tolerance": 0.01}),
        ({"vocabulary": Vocabulary((0, 1, 2, 40, 95), 96)}, {"vocabulary": VOCABULARY}),
        ({"compensation": "sequential", "biases": "none"}, {"biases": "none"}),
    ],
)
def test_a_plan_comes_back_as_it_was(tmp_path: Path, values: dict[str, Any], recorded: dict[str, Any]) -> None:
    for base in (PLAN, UNIFORM):
        plan = with_settings(base, **values)
        write_plan(plan, tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json") == plan
        content = json.loads((tmp_path / "plan.json").read_text("utf-8"))
        found = {key: content[key] for key in ("group_tolerance", "vocabulary", "biases") if key in content}
        assert found == recorded
        if "biases" in values:
            assert {layer.biases for layer in plan.shrunk_spec(dense_spec()).layers} == {frozenset()}
            assert not any(plan.has_intercept(output, dense_spec().family) for output in OUTPUTS)
            assert plan.compensated(dense_spec()) == with_settings(plan, biases="added").compensated(dense_spec())
        if "vocabulary" in values:
            assert plan.shrunk_spec(dense_spec()) == base.shrunk_spec(dense_spec()).with_tokens(5)
            with pytest.raises(ArtifactError, match="96 tokens, but the model has 97"):
                plan.shrunk_spec(dense_spec(vocab_size=97))


@pytest.mark.parametrize(
    "values",
    [
        {"schema": "seap-export/plan/4"},
        {"schema": None},
        {"layers": changed_layer(kv_groups=[0, 1])},
        {"layers": changed_layer(heads=[0, 1, 4])},
        {"layers": changed_layer(heads=[0, 1, 2, 3])},
        {"layers": changed_layer(neurons=[])},
        {"layers": changed_layer(neurons=[3, 1])},
        {"layers": changed_layer(neurons=[-1, 1])},
        {"layers": changed_layer(neurons=None)},
        {"layers": changed_layer(num_heads_per_group=0)},
        {"layers": "all"},
        {"layout": "uniform", "sparsity": dataclasses.asdict(EVEN)},  # though layers differ
        {"layout": "even"},
        {"requested_ratio": 1.0},
        {"requested_ratio": "0.3"},
        {"distillation": 0.5},  # with the compensation "bias"
        {"ridge": 0.0},
        {"task": None},
        {"weights": {}},
        {"weights": {"boolq": 0.0}},
        {"weights": {"boolq": -1.0, "piqa": 2.0}},
        {"weights": {"boolq": float("inf")}},
        {"weights": ["boolq"]},
        {"surplus": 1},
        {"sparsity": {"slope": 1.0}},
        {"sparsity": 7},
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"plan\.json"):
        read_plan(changed_file(tmp_path / "plan.json", **values))


#: The last layer whole, but for neurons.
NEURONS_ONLY = kept_layer(2, range(3), range(6), (0, 1))


@pytest.mark.parametrize(
    ("compensation", "layers", "expected"),
    [
        ("bias", LAYERS, ({"o_proj"}, BOTH, set())),
        ("one-shot", LAYERS, ({"o_proj"}, BOTH, set())),
        ("sequential", LAYERS, (BOTH, BOTH, BOTH)),
        ("sequential", (LAYERS[2], NEURONS_ONLY, LAYERS[2]), (set(), {"down_proj"}, BOTH)),
        ("sequential", (LAYERS[2],) * 3, (set(),) * 3),
        ("none", LAYERS, (set(),) * 3),
    ],
)
def test_what_is_cut_is_compensated_or_all_that_follows(compensation: Any, layers: Any, expected: Any) -> None:
    plan, dense = with_settings(PLAN, compensation=compensation, layers=layers), dense_spec().layers[0]
    assert plan.compensated(dense_spec()) == expected
    assert plan.shrunk_spec(dense_spec()).layers == tuple(
        dense.changed(**layer.sizes, biases=biases) for layer, biases in zip(layers, expected, strict=True)
    )
    sizes = [{**dense.sizes, "num_attention_heads": 4, "num_key_value_heads": 2}]
    sizes += [{**dense.sizes, "num_attention_heads": 3, "intermediate_size": 3}, dense.sizes]
    assert layers != LAYERS or [layer.sizes for layer in layers] == sizes


def test_a_plan_of_a_model_of_another_shape_is_refused() -> None:
    other = "layer 0 has another shape"
    sizes = [
        {"intermediate_size": 79},
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"num_key_value_heads": 6},
    ]
    for values, message in [({"num_hidden_layers": 4}, "3 layers.* 4"), *((values, other) for values in sizes)]:
        with pytest.raises(ArtifactError, match=message):
            PLAN.shrunk_spec(dense_spec(**values))
    heads, neurons = LAYERS[2].sublayers
    for sublayers in ((heads,), (neurons,), (neurons, heads)):
        with pytest.raises(ArtifactError, match=other):
            with_settings(PLAN, layers=(LayerPlan(sublayers), *LAYERS[1:])).shrunk_spec(dense_spec())
    for sublayers in ((), (heads, heads)):
        with pytest.raises(ValueError, match="different kinds"):
            LayerPlan(sublayers)


@pytest.mark.parametrize(
    ("model", "fitted", "biases"),
    [
        ({"model_type": "llama"}, OUTPUTS, family_of_model_type("llama").projections),
        ({"model_type": "mistral"}, (), ()),
        ({"model_type": "qwen2"}, (), ("q_proj", "k_proj", "v_proj")),
        ({"model_type": "qwen3"}, ("o_proj",), ("q_proj", "k_proj", "v_proj", "o_proj")),
    ],
    ids=str,
)
def test_biases_of_a_uniform_plan_are_the_class_s(model: Any, fitted: Any, biases: Any) -> None:
    dense = dense_spec(**model)
    assert UNIFORM.compensated(dense) == (frozenset(fitted),) * 3
    assert {layer.biases for layer in UNIFORM.shrunk_spec(dense).layers} == {frozenset(biases)}
    assert {output for output in OUTPUTS if UNIFORM.has_intercept(output, dense.family)} == set(fitted)  # type: ignore[arg-type]
    refitted = with_settings(UNIFORM, compensation="one-shot")
    assert refitted.compensated(dense) == (frozenset(OUTPUTS),) * 3
    assert {layer.biases for layer in refitted.shrunk_spec(dense).layers} == {frozenset(biases)}
    per_layer = with_settings(UNIFORM, layout="per-layer")
    assert per_layer.compensated(dense) == (frozenset(OUTPUTS),) * 3
    assert all(frozenset(OUTPUTS) <= layer.biases for layer in per_layer.shrunk_spec(dense).layers)
