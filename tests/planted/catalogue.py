"""All faults that are planted."""

from __future__ import annotations

from collections.abc import Mapping

from planted.fault import Fault
from planted.folders import block, both, manifest, model, onnx_folder, router, tokenizer
from planted.graphs import (
    attention,
    experts,
    factors,
    norms,
    outside,
    projections,
    quantised,
    rotations,
    scaling,
    structure,
    wiring,
)

FAULTS: tuple[Fault, ...] = (
    *projections.FAULTS,
    *attention.FAULTS,
    *wiring.FAULTS,
    *norms.FAULTS,
    *factors.FAULTS,
    *rotations.FAULTS,
    *outside.FAULTS,
    *experts.FAULTS,
    *quantised.FAULTS,
    *scaling.FAULTS,
    *structure.FAULTS,
    *both.FAULTS,
    *model.FAULTS,
    *block.FAULTS,
    *onnx_folder.FAULTS,
    *tokenizer.FAULTS,
    *manifest.FAULTS,
    *router.FAULTS,
)
NUMERIC: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault.is_numeric)
#: Those that `seap-export validate` does not stop, or not with the code or the layer that is right, and why.
MISSED: Mapping[str, str] = {
    "two ids of both swapped, without a router": "only the dense model's own tokenizer could tell",
    "plan of another layout": "both layouts may have the same shapes",
    "plan keeps other neurons": "only the dense model's own weights could tell",
    "rows of the table shifted": "the router's accuracy may differ by a quarter from what router.json says",
}
