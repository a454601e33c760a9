"""How sparsity is spread over the layers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seap_export.errors import UsageError
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS, Sparsity, default_protection


@pytest.mark.parametrize(("layers", "protected"), [(1, 0), (7, 0), (8, 1), (15, 1), (16, 2), (32, 2), (80, 2)])
def test_two_layers_at_each_end_are_protected_but_fewer_in_a_shallow_model(layers: int, protected: int) -> None:
    for kind in ("logistic", "uniform"):
        assert default_protection(kind, layers) == protected
        resolved = Sparsity(kind).resolved(layers)
        assert (resolved.protect_first, resolved.protect_last) == (protected, protected)


@pytest.mark.parametrize("kind", ["adaptive", "global"])
def test_no_layer_is_protected_where_losses_or_the_ranking_decide_unless_asked(kind: Any) -> None:
    resolved = Sparsity(kind).resolved(32)
    assert (resolved.protect_first, resolved.protect_last) == (0, 0)
    assert Sparsity(kind, protect_last=3).resolved(32).protect_last == 3


def test_resolving_keeps_all_other_settings() -> None:
    resolved = Sparsity("adaptive", 0.5, 0.1, 1, None, "macs", 300).resolved(32)
    assert resolved == Sparsity("adaptive", 0.5, 0.1, 1, 0, "macs", 300)


@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_protected_layers_have_no_sparsity_and_all_others_some(kind: Any) -> None:
    curve = Sparsity(kind, protect_first=3, protect_last=1).curve(9)
    assert [value > 0.0 for value in curve] == [False] * 3 + [True] * 5 + [False]


def test_the_logistic_curve_is_the_paper_s_over_the_unprotected_layers() -> None:
    curve = Sparsity("logistic", k=0.8, x0=0.3, protect_first=2, protect_last=2).curve(9)
    expected = [1.0 / (1.0 + math.exp(-0.8 * (x - 0.3))) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert curve[2:-2] == pytest.approx(expected, rel=1e-12)


def test_the_uniform_curve_is_the_same_for_all_unprotected_layers() -> None:
    assert Sparsity("uniform", protect_first=1, protect_last=2).curve(6) == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("first", "last"), [(4, 0), (0, 4), (2, 2), (9, 9)])
def test_protecting_every_layer_is_refused(first: int, last: int) -> None:
    with pytest.raises(UsageError, match=r"all 4 layers would be protected; lower protect_first"):
        Sparsity(protect_first=first, protect_last=last).resolved(4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sloped"}, "'sloped' is not known"),
        ({"kind": "adaptive", "budget": "seconds"}, "'seconds' is not known"),
        ({"kind": "uniform", "budget": "macs"}, "budget: 'macs' needs"),
        ({"kind": "global", "budget": "bytes"}, "budget: 'bytes' needs"),
        ({"context": 0}, "context: 0 is out of range"),
        ({"k": math.nan}, "finite"),
        ({"x0": math.inf}, "finite"),
        ({"protect_first": -1}, "at least 0"),
        ({"protect_last": -1}, "at least 0"),
    ],
)
def test_a_setting_without_meaning_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sparsity(**values)
