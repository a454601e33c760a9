"""Where two trees differ first."""

from __future__ import annotations

from types import SimpleNamespace as Node
from typing import Any

import numpy as np
import pytest

from converters.first_difference import first_difference


@pytest.mark.parametrize(
    ("wanted", "given", "place"),
    [
        (Node(a=[1, Node(b=2)]), Node(a=[1, Node(b=3)]), "program.a[1].b is 3, not 2"),
        (Node(a=[1]), Node(a=[1, 2]), "program.a has 2 items, not 1"),
        (Node(a=np.array([1.0, 2.0])), Node(a=np.array([1.0, 3.0])), "program.a[1] is 3.0, not 2.0"),
        (Node(a=1), Node(a=None), "program.a is None, not 1"),
        (Node(a=float("nan"), b=(1, "x")), Node(a=float("nan"), b=(1, "x")), None),
    ],
)
def test_the_first_place_is_named(wanted: Any, given: Any, place: str | None) -> None:
    assert first_difference(wanted, given) == place
