"""Recipes know their names, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seap_export.errors import UsageError
from seap_export.plan.recipes import DEFAULT_METHOD, METHODS, PlanSettings, recipe
from seap_export.plan.sparsity import EVEN, Sparsity


def test_the_default_settings_are_the_default_recipe() -> None:
    assert recipe(DEFAULT_METHOD, {}) == PlanSettings() == METHODS["reconstruct"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_layers", [3, 12, 30])
def test_a_recipe_knows_its_name_whatever_the_ridge_and_the_alignment(name: str, num_layers: int) -> None:
    assert replace(recipe(name, {}, align=8), ridge=0.5, mix="plain").method(num_layers) == name


def test_the_default_protection_spelled_out_is_still_the_recipe() -> None:
    assert recipe("reconstruct", {"protect_first": 0, "protect_last": 0}).method(30) == "reconstruct"
    spelled_out = recipe("seap", {"protect_first": 2, "protect_last": 2})
    assert (spelled_out.method(30), spelled_out.method(12)) == ("seap", "custom")  # of 12 layers 1 is protected


@pytest.mark.parametrize(
    ("name", "sparsity", "changes"),
    [
        ("reconstruct", {}, {"compensation": "one-shot"}),
        ("reconstruct", {}, {"score": "wifv"}),
        ("reconstruct", {"budget": "macs"}, {}),
        ("reconstruct", {"protect_first": 1}, {}),
        ("seap", {"k": 0.9}, {}),
        ("seap", {}, {"balance": "loss"}),
        ("wanda-sp", {"protect_first": 2, "protect_last": 2}, {}),
        ("flap", {}, {"compensation": "none"}),
    ],
)
def test_changed_settings_are_custom(name: str, sparsity: dict[str, Any], changes: dict[str, Any]) -> None:
    assert recipe(name, sparsity, **changes).method(30) == "custom"


def test_changes_can_lead_to_another_recipe() -> None:
    changed = recipe(
        "seap", {"kind": "uniform", "protect_first": 0, "protect_last": 0}, score="wifn", compensation="none"
    )
    assert changed.method(30) == "wanda-sp"


def test_another_kind_of_sparsity_has_its_own_protection() -> None:
    assert recipe("wanda-sp", {"kind": "logistic"}).sparsity == Sparsity("logistic")
    assert recipe("seap", {"k": 1.5}).sparsity == Sparsity("logistic", k=1.5)


@pytest.mark.parametrize("kind", ["adaptive", "global"])
def test_sparsity_that_weighs_heads_against_neurons_takes_over_the_balance(kind: str) -> None:
    assert recipe("seap", {"kind": kind}).balance == "loss"
    message = f"--sparsity {kind} weighs heads against neurons itself; leave --balance alike out"
    with pytest.raises(UsageError, match=message):
        recipe("seap", {"kind": kind}, balance="alike")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ridge": 0.0}, "--ridge 0 is out of range; give a positive number"),
        ({"ridge": float("nan")}, "--ridge nan is out of range"),
        ({"sparsity": Sparsity("global")}, "--sparsity global ranks scores; use it with --score wifv or wifn"),
        ({"balance": "even"}, "balance 'even' is not known; known: loss, alike"),
        ({"mix": "max"}, "mix 'max' is not known; known: scaled, plain"),
        ({"layout": "even"}, "layout 'even' is not known; known: per-layer, uniform"),
    ],
)
def test_settings_refuse_what_means_nothing(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PlanSettings(**values)


def test_a_method_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="method 'magic' is not known; known: reconstruct, seap, wanda-sp, flap"):
        recipe("magic", {})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_layers", [3, 30])
def test_a_recipe_in_the_uniform_layout_keeps_its_name(name: str, num_layers: int) -> None:
    settings = recipe(name, {}, layout="uniform")
    assert settings == replace(METHODS[name], layout="uniform", sparsity=EVEN)
    assert settings.method(num_layers) == name
    assert replace(settings, compensation="one-shot").method(num_layers) == "custom"
    assert not settings.square_heads


def test_uniform_sparsity_alone_is_another_recipe() -> None:
    """Layers that lose the same fraction may still differ in shape."""
    even = {"kind": "uniform", "protect_first": 0, "protect_last": 0}
    assert recipe("reconstruct", even).method(30) == "custom"


def test_the_uniform_layout_may_be_asked_for_with_what_it_is_anyway() -> None:
    even = {"kind": "uniform", "protect_first": 0, "protect_last": 0, "budget": "weights"}
    assert recipe("seap", even, layout="uniform", balance="loss") == recipe(
        "seap", {}, layout="uniform", balance="loss"
    )


@pytest.mark.parametrize(
    ("sparsity", "options"),
    [
        ({"kind": "adaptive"}, "--sparsity"),
        ({"kind": "global", "protect_last": 1}, "--sparsity and --protect-last"),
        ({"protect_first": 2, "protect_last": 0}, "--protect-first"),
        ({"k": 0.8}, "--k"),
        ({"x0": 0.5, "kind": "uniform"}, "--x0"),
        ({"budget": "macs", "context": 64}, "--budget and --context"),
        ({"context": 1024}, "--context"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_the_uniform_layout_leaves_no_choice_of_sparsity(name: str, sparsity: dict[str, Any], options: str) -> None:
    message = f"^--layout uniform shrinks all layers alike, and counts weights; leave out {options}$"
    with pytest.raises(UsageError, match=message):
        recipe(name, sparsity, layout="uniform")


@pytest.mark.parametrize("sparsity", [Sparsity("adaptive"), Sparsity("uniform"), replace(EVEN, protect_last=1)])
def test_uniform_settings_refuse_another_sparsity(sparsity: Sparsity) -> None:
    with pytest.raises(UsageError, match="--layout uniform shrinks all layers alike"):
        PlanSettings(layout="uniform", sparsity=sparsity)
