"""The micro models as parameters of a test whose result hardly depends on their features."""

from __future__ import annotations

import pytest
from micro import RICHEST, VARIATIONS

__all__ = ["VARIED"]

#: The richest of each family; `make test-all` adds the others.
VARIED = tuple(name if name in RICHEST else pytest.param(name, marks=pytest.mark.full) for name in VARIATIONS)
