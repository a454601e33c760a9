"""How sparsity is spread over the layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from seap_export.errors import UsageError
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS, Sparsity, default_protection


@pytest.mark.parametrize(("layers", "protected"), [(1, 0), (7, 0), (8, 1), (15, 1), (16, 2), (80, 2)])
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_two_layers_at_each_end_are_protected_on_a_curve_but_fewer_in_a_shallow_model(
    kind: Any, layers: int, protected: int
) -> None:
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


def test_protecting_every_layer_is_refused() -> None:
    for first, last in ((4, 0), (2, 2), (9, 9)):
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
