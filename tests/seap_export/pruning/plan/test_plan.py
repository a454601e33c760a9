"""Plans come back from disk as they were, recipes are files; what contradicts itself is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import kept_layer, with_settings
from support.product import Vocabulary
from support.variations import micro_config

from seap_export.errors import ArtifactError, UsageError
from seap_export.model.families import ModelSpec, family_of_model_type, model_spec
from seap_export.pruning.plan.keys import SettingError
from seap_export.pruning.plan.plan import LayerPlan, Plan, read_plan, write_plan
from seap_export.pruning.plan.recipes import Target, method_of, open_recipe, shipped_recipes
from seap_export.pruning.plan.settings import Compensation, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, SPARSITY_KINDS, Sparsity, default_protection

#: Of layers with 6 query heads, 3 key/value heads and 80 neurons.
LAYERS = (
    kept_layer(2, (0, 2), (0, 1, 4, 5), range(80)),
    kept_layer(2, (0, 1, 2), (1, 2, 4), (0, 7, 79)),
    kept_layer(2, (0, 1, 2), range(6), range(80)),
)
CHANGED: Any = {"align": 16, "balance": "alike", "ridge": 1.0 / 3.0, "distillation": 0.0, "mix": "plain"}
PLAN = Plan(
    task="general",
    weights={"boolq": 1.0, "piqa": 0.1 + 0.2},
    source_name="micro",
    source_sha256="ab" * 32,
    method="custom",
    settings=PlanSettings("wifv", Sparsity("logistic", 0.8, 0.3, 0, 1), compensation="bias", **CHANGED),
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


def changed_layer(output: str, **values: Any) -> list[dict[str, Any]]:
    rows = [layer.to_json() for layer in LAYERS]
    return [rows[0] | {output: rows[0][output] | values}, *rows[1:]]


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
        {"layers": changed_layer("o_proj", groups=[0, 1])},
        {"layers": changed_layer("o_proj", units=[0, 1, 4])},
        {"layers": changed_layer("o_proj", units=[0, 1, 2, 3])},
        {"layers": changed_layer("down_proj", units=[])},
        {"layers": changed_layer("down_proj", units=[3, 1])},
        {"layers": changed_layer("down_proj", units=[-1, 1])},
        {"layers": changed_layer("o_proj", group_size=0)},
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


NAMES = ("reconstruct", "fast", "best", "seap", "wanda-sp", "flap", "obc", "reap")
#: The recipes as the papers and docs/method.md describe them.
EXPECTED = {
    "reconstruct": PlanSettings(),
    "fast": PlanSettings(distillation=0.0),
    "best": PlanSettings(calibration_tokens=262_144, fresh_tokens=65_536, trials=24),
    "seap": PlanSettings("wifv", Sparsity("logistic"), balance="alike", compensation="bias"),
    "wanda-sp": PlanSettings(
        "wifn", Sparsity("uniform", protect_first=0, protect_last=0), balance="alike", compensation="none"
    ),
    "flap": PlanSettings("wifv", Sparsity("global"), compensation="bias"),
    "obc": PlanSettings("elimination", EVEN, balance="alike", compensation="one-shot"),
    "reap": PlanSettings("reap", EVEN, compensation="none"),
}


def write(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text, "utf-8")
    return str(folder / "mine.toml")


def test_the_target_decides_what_the_recipe_leaves_open(tmp_path: Path) -> None:
    for target, align, group_tolerance in (
        (Target(), 16, 0.0),
        (Target("cuda"), 64, 0.05),
        (Target("cuda", block_size=32), 64, 0.05),
        (Target("cuda", block_size=128), 128, 0.05),
        (Target("cuda", groups_heads=False), 64, 0.0),
    ):
        settings = open_recipe("seap", target=target)
        assert (settings.align, settings.group_tolerance) == (align, group_tolerance)
        settings = open_recipe(write(tmp_path, "align = 8\ngroup_tolerance = 0.5"), target=target)
        assert (settings.align, settings.group_tolerance) == (8, 0.5)
    assert open_recipe(write(tmp_path, "")) == PlanSettings()
    settings = open_recipe(write(tmp_path, 'score = "wifv"\nridge = 2\nsparsity.protect_last = 1\n'))
    assert settings == PlanSettings("wifv", Sparsity("adaptive", protect_last=1), ridge=2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_holds_the_settings_of_its_source_and_knows_its_name(name: str, tmp_path: Path) -> None:
    settings, own_name = open_recipe(name), {"best": "reconstruct"}.get(name, name)
    assert tuple(shipped_recipes()) == NAMES
    assert shipped_recipes()[name].settings == settings == EXPECTED[name]
    changed = replace(settings, ridge=0.5, mix="plain", align=8, group_tolerance=0.1)
    changed = replace(changed, min_tokens=7, fresh_tokens=8, calibration_tokens=9)
    uniform = open_recipe(name, layout="uniform")
    assert uniform == replace(EXPECTED[name], layout="uniform", sparsity=EVEN, trials=0)
    text = shipped_recipes()[name].text.replace("trials = 24", "trials = 0")
    assert uniform == open_recipe(write(tmp_path, text), layout="uniform")
    assert not uniform.square_heads
    other: Compensation = "bias" if settings.eliminates else "one-shot"
    for num_layers in (3, 12, 30):
        assert method_of(changed, num_layers) == method_of(uniform, num_layers) == own_name
        assert method_of(replace(uniform, compensation=other), num_layers) == "custom"


def test_changed_settings_are_custom() -> None:
    changes: list[tuple[str, dict[str, Any]]] = [
        ("reconstruct", {"compensation": "one-shot"}),
        ("reconstruct", {"score": "wifv"}),
        ("reconstruct", {"sparsity": Sparsity("adaptive", budget="macs")}),
        ("reconstruct", {"distillation": 0.5}),
        ("seap", {"sparsity": Sparsity("logistic", k=0.9)}),
        ("seap", {"balance": "loss"}),
        ("wanda-sp", {"sparsity": Sparsity("uniform", protect_first=2, protect_last=2)}),
        ("flap", {"compensation": "none"}),
    ]
    for name, values in changes:
        assert method_of(replace(open_recipe(name), **values), 30) == "custom", (name, values)
    for tokens, fresh, passes in ((99, 0, 0.0), (100, 0, 2.0), (1, 100, 2.0), (1, 99, 0.0)):
        assert PlanSettings(distillation=2.0, min_tokens=100, fresh_tokens=fresh).passes_over(tokens) == passes


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("ridge", [{"ridge": 0.0}, {"ridge": float("nan")}]),
        ("distillation", [{"distillation": -1.0}, {"distillation": float("inf")}]),
        *((key, [{key: -1}]) for key in ("min_tokens", "fresh_tokens", "trials", "group_tolerance")),
        *((key, [{key: 0}]) for key in ("calibration_tokens", "align")),
        ("sparsity.kind", [{"sparsity": Sparsity("global")}]),
        ("balance", [{"balance": "even"}, {"balance": "alike"}]),
        ("mix", [{"mix": "max"}]),
        ("layout", [{"layout": "even"}]),
        ("sparsity", [{"layout": "uniform", "sparsity": one} for one in (Sparsity(), replace(EVEN, protect_last=1))]),
    ],
)
def test_settings_refuse_what_means_nothing(key: str, values: list[dict[str, Any]]) -> None:
    for each in values:
        with pytest.raises(SettingError) as caught:
            PlanSettings(**each)
        assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("score = ", 1, ["TOML"]),
        ("\nmethod = 1", 2, ["method", "unknown", "score"]),
        ("\n\nscroe = 1", 3, ["scroe", "did you mean 'score'"]),
        ('\nscore = "magic"', 2, ["score", "'magic'", "frequency, random or elimination"]),
        ('ridge = 1\nalign = "8"', 2, ["align", "whole number"]),
        ('[sparsity]\nkind = "uniform"\nx = 1', 3, ["sparsity.x", "unknown", "x0"]),
        ('[sparsity]\nkind = "logistic"\n\n# the curve\nk = nan', 5, ["sparsity.k", "finite"]),
        ('score = "wifv"\n[sparsity]\nkind = "uniform"\nbudget = "macs"', 4, ["sparsity.budget", "adaptive"]),
        ("[sparsity]\nk = 0.8", 2, ["sparsity.k", "no effect", "adaptive"]),
        ('score = "wifv"\ncompensation = "bias"\nridge = 2.0', 3, ["ridge", "no effect", "bias"]),
        ('trials = 5\n[sparsity]\nkind = "uniform"', 1, ["trials", "no effect", "uniform"]),
    ],
)
def test_errors_name_file_line_and_key(text: str, line: int, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_recipe(write(tmp_path, text))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}:{line}: ")
    assert [word for word in words if word not in message] == []


def test_what_is_no_recipe_at_all_is_refused(tmp_path: Path) -> None:
    for content, word in ((b"\xff", "UTF-8"), (b"# " + b"x" * 20_000, "longer"), (b"[" * 5_000, "TOML")):
        (tmp_path / "mine.toml").write_bytes(content)
        with pytest.raises(UsageError, match=word):
            open_recipe(str(tmp_path / "mine.toml"))
    for name in ("magic", "magic.toml", "."):
        with pytest.raises(UsageError, match="reconstruct, fast, best, seap, wanda-sp, flap, obc or reap"):
            open_recipe(name)


def test_the_uniform_layout_does_not_ignore_a_sparsity_that_somebody_chose(tmp_path: Path) -> None:
    for table in ('kind = "uniform"', "protect_first = 1", 'budget = "bytes"'):
        file = write(tmp_path, f'score = "wifv"\n[sparsity]\n{table}\n')
        assert open_recipe(file).layout == "per-layer"
        with pytest.raises(UsageError, match=r"mine\.toml:2: sparsity: .*uniform"):
            open_recipe(file, layout="uniform")


@pytest.mark.parametrize(("layers", "protected"), [(1, 0), (7, 0), (8, 1), (15, 1), (16, 2), (80, 2)])
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_two_layers_at_each_end_are_protected_in_a_deep_model(kind: Any, layers: int, protected: int) -> None:
    number = protected if kind in ("logistic", "uniform") else 0
    assert default_protection(kind, layers) == number
    sparsity = Sparsity(kind, 0.5, 0.1)
    assert sparsity.resolved(layers) == replace(sparsity, protect_first=number, protect_last=number)
    assert replace(sparsity, protect_last=0).resolved(layers).protect_last == 0


@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_protected_layers_have_no_sparsity_and_the_others_that_of_the_curve(kind: Any) -> None:
    """The logistic one is the paper's."""
    curve = Sparsity(kind, 0.8, 0.3, protect_first=3, protect_last=1).curve(9)
    logistic = [1.0 / (1.0 + math.exp(-0.8 * (x - 0.3))) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    expected = pytest.approx(logistic, rel=1e-12) if kind == "logistic" else [1.0] * 5
    assert (curve[:3], curve[3:-1], curve[-1]) == ([0.0] * 3, expected, 0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sloped"}, "'sloped' is not known"),
        ({"kind": "adaptive", "budget": "seconds"}, "'seconds' is not known"),
        ({"kind": "uniform", "budget": "macs"}, "budget: 'macs' needs"),
        ({"context": 0}, "context: 0 is out of range"),
        ({"k": math.nan}, "finite"),
        ({"protect_first": -1}, "at least 0"),
        ({"protect_last": -1}, "at least 0"),
        *(
            ({"protect_first": first, "protect_last": last}, "all 4 layers would be protected; lower protect_first")
            for first, last in ((4, 0), (2, 2))
        ),
    ],
)
def test_a_setting_without_meaning_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sparsity(**values).resolved(4)
