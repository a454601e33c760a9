"""Faults that `seap-export validate` does not stop, or not with the code or the layer that is right, and why."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MISSED"]

MISSED: Mapping[str, str] = {
    "modelling code changed, recorded": "the code may be that of another version of this package",
    "two ids of both swapped, without a router": "only the dense model's own tokenizer could tell",
    "plan of another layout": "both layouts may have the same shapes",
    "plan keeps other neurons": "only the dense model's own weights could tell",
    "rows of the table shifted": "the router's accuracy may differ by a quarter from what router.json says",
}
