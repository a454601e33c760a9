"""A plan comes back from disk as it was; one that contradicts itself or the model is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.plans import kept_layer, with_settings
from support.product import Vocabulary
from support.variations import micro_config

from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec, family_of_model_type, model_spec
from seap_export.pruning.plan.plan import LayerPlan, Plan, read_plan, write_plan
from seap_export.pruning.plan.settings import Compensation, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, Sparsity

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
        score="wifv",
        sparsity=Sparsity("logistic", 0.8, 0.3, 0, 1),
        align=16,
        balance="alike",
        compensation="bias",
        ridge=1.0 / 3.0,
        distillation=0.0,
        mix="plain",
    ),
    requested_ratio=0.3,
    achieved_ratio=0.1 + 0.2,
    layers=LAYERS,
)


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


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN


def test_a_group_tolerance_is_recorded_where_there_is_one(tmp_path: Path) -> None:
    for tolerance, is_written in ((0.0, False), (0.01, True)):
        plan = with_settings(PLAN, group_tolerance=tolerance)
        write_plan(plan, tmp_path / "plan.json")
        assert ("group_tolerance" in (tmp_path / "plan.json").read_text("utf-8")) is is_written
        assert read_plan(tmp_path / "plan.json") == plan


def test_without_biases_the_refit_adds_none_and_the_plan_says_so(tmp_path: Path) -> None:
    for layout in ("per-layer", "uniform"):
        plan = with_settings(UNIFORM, layout=layout, compensation="sequential", biases="none")
        write_plan(plan, tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json") == plan
        assert {layer.biases for layer in plan.shrunk_spec(dense_spec()).layers} == {frozenset()}
        assert not any(plan.has_intercept(output, dense_spec().family) for output in OUTPUTS)
        assert plan.compensated(dense_spec()) == with_settings(plan, biases="added").compensated(dense_spec())
    write_plan(UNIFORM, tmp_path / "plan.json")
    assert "biases" not in (tmp_path / "plan.json").read_text("utf-8")


def test_a_vocabulary_is_recorded_where_there_is_one(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, vocabulary=Vocabulary((0, 1, 2, 40, 95), 96))
    for written, recorded in ((PLAN, None), (plan, {"tokens": 5, "of": 96, "kept": "4AAAAACAAAAAAAAB"})):
        write_plan(written, tmp_path / "plan.json")
        assert json.loads((tmp_path / "plan.json").read_text("utf-8")).get("vocabulary") == recorded
        assert read_plan(tmp_path / "plan.json") == written
    dense = dense_spec()
    assert PLAN.shrunk_spec(dense).vocab_size == 96
    assert plan.shrunk_spec(dense) == PLAN.shrunk_spec(dense).with_tokens(5)
    with pytest.raises(ArtifactError, match="96 tokens, but the model has 97"):
        plan.shrunk_spec(dense_spec(vocab_size=97))


@pytest.mark.parametrize("schema", ["seap-export/plan/4", "seap-export/calibration/2", None])
def test_another_schema_is_refused(tmp_path: Path, schema: str | None) -> None:
    with pytest.raises(ArtifactError, match="expected 'seap-export/plan/5'; make it again"):
        read_plan(changed_file(tmp_path / "plan.json", schema=schema))


@pytest.mark.parametrize(
    "values",
    [
        {"kv_groups": [0, 1]},
        {"heads": [0, 1, 4]},
        {"heads": [0, 1, 2, 3]},
        {"heads": []},
        {"neurons": []},
        {"neurons": [3, 1]},
        {"neurons": [1, 1]},
        {"neurons": [-1, 1]},
        {"neurons": 5},
        {"neurons": None},
        {"num_heads_per_group": 0},
    ],
)
def test_a_layer_that_contradicts_itself_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"plan\.json: not a (valid plan|readable JSON file)"):
        read_plan(changed_file(tmp_path / "plan.json", layers=changed_layer(**values)))


@pytest.mark.parametrize(
    "values",
    [
        {"compensation": "weights"},
        {"requested_ratio": 1.0},
        {"distillation": -1.0},
        {"distillation": 0.5},  # with the compensation "bias"
        {"requested_ratio": "0.3"},
        {"layers": "all"},
        {"task": None},
        {"ridge": 0.0},
        {"ridge": "5"},
        {"weights": {}},
        {"weights": {"boolq": 0.0}},
        {"weights": {"boolq": -1.0, "piqa": 2.0}},
        {"weights": {"boolq": float("inf")}},
        {"weights": {"boolq": "1"}},
        {"weights": ["boolq"]},
        {"score": "taste"},
        {"surplus": 1},
        {"sparsity": {"slope": 1.0}},
        {"sparsity": 7},
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"plan\.json: not a (valid plan|readable JSON file)"):
        read_plan(changed_file(tmp_path / "plan.json", **values))


def test_a_layer_of_other_sublayers_does_not_fit() -> None:
    heads, neurons = LAYERS[2].sublayers
    for sublayers in ((heads,), (neurons,), (neurons, heads)):
        plan = with_settings(PLAN, layers=(LayerPlan(sublayers), *LAYERS[1:]))
        with pytest.raises(ArtifactError, match="layer 0 has another shape"):
            plan.shrunk_spec(dense_spec())
    for sublayers in ((), (heads, heads)):
        with pytest.raises(ValueError, match="different kinds"):
            LayerPlan(sublayers)


def test_the_shrunk_shapes_are_those_of_the_plan() -> None:
    first, second, third = PLAN.shrunk_spec(dense_spec()).layers
    dense = dense_spec().layers[0]
    assert first == dense.changed(num_attention_heads=4, num_key_value_heads=2, biases={"o_proj"})
    assert second == dense.changed(num_attention_heads=3, intermediate_size=3, biases={"o_proj", "down_proj"})
    assert third == dense


BOTH = frozenset({"o_proj", "down_proj"})


@pytest.mark.parametrize(
    ("compensation", "expected"),
    [
        ("bias", (frozenset({"o_proj"}), BOTH, frozenset())),
        ("one-shot", (frozenset({"o_proj"}), BOTH, frozenset())),
        ("sequential", (BOTH, BOTH, BOTH)),
        ("none", (frozenset(),) * 3),
    ],
)
def test_what_is_cut_is_compensated_and_in_the_sequential_mode_all_that_follows(
    compensation: Compensation, expected: tuple[frozenset[str], ...]
) -> None:
    plan = with_settings(PLAN, compensation=compensation)
    assert plan.compensated(dense_spec()) == expected
    assert tuple(layer.biases for layer in plan.shrunk_spec(dense_spec()).layers) == expected


def test_in_the_sequential_mode_what_comes_before_the_first_cut_stays() -> None:
    whole = LAYERS[2]
    neurons_only = kept_layer(2, range(3), range(6), (0, 1))
    plan = with_settings(PLAN, compensation="sequential", layers=(whole, neurons_only, whole))
    assert plan.compensated(dense_spec()) == (frozenset(), frozenset({"down_proj"}), BOTH)
    nothing = with_settings(PLAN, compensation="sequential", layers=(whole,) * 3)
    assert nothing.compensated(dense_spec()) == (frozenset(),) * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 4}, "3 layers.* 4"),
        ({"intermediate_size": 79}, "layer 0 has another shape"),
        ({"num_attention_heads": 4, "num_key_value_heads": 2}, "layer 0 has another shape"),
        ({"num_key_value_heads": 6}, "layer 0 has another shape"),
    ],
)
def test_a_plan_of_a_model_of_another_shape_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        PLAN.shrunk_spec(dense_spec(**values))


EVEN_LAYERS = tuple(kept_layer(2, (0, 2), (0, 5), range(start, start + 48)) for start in (0, 7, 30))
UNIFORM = with_settings(PLAN, layers=EVEN_LAYERS, layout="uniform", sparsity=EVEN)
OUTPUTS = ("o_proj", "down_proj")


def test_layers_that_differ_are_no_uniform_plan(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a valid plan.*uniform layout"):
        read_plan(changed_file(tmp_path / "plan.json", layout="uniform", sparsity=dataclasses.asdict(EVEN)))
    with pytest.raises(ArtifactError, match="layout: 'even' is not known"):
        read_plan(changed_file(tmp_path / "plan.json", layout="even"))


@pytest.mark.parametrize(
    ("model", "fitted", "biases"),
    [
        ({"model_type": "llama"}, OUTPUTS, family_of_model_type("llama").projections),
        ({"model_type": "llama", "attention_bias": True}, OUTPUTS, family_of_model_type("llama").projections),
        ({"model_type": "mistral"}, (), ()),
        ({"model_type": "qwen2"}, (), ("q_proj", "k_proj", "v_proj")),
        ({"model_type": "qwen3"}, ("o_proj",), ("q_proj", "k_proj", "v_proj", "o_proj")),
    ],
    ids=str,
)
def test_biases_of_a_uniform_plan_are_those_of_the_family_s_class(
    model: dict[str, Any], fitted: tuple[str, ...], biases: tuple[str, ...]
) -> None:
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
