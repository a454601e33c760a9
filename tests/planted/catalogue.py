"""All faults that are planted in what `export` writes: models, ONNX files, and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping

from planted import folders
from planted.fault import Fault
from planted.graphs import floats, rounded

FAULTS: tuple[Fault, ...] = (*floats.FAULTS, *rounded.FAULTS, *folders.FAULTS)
NUMERIC: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault.is_numeric)
#: Those that `seap-export validate` does not stop, or not with the code or the layer that is right, and why.
MISSED: Mapping[str, str] = {
    "two ids of both swapped": "only the dense model's own tokenizer could tell",
    "plan of another layout": "both layouts may have the same shapes",
    "plan keeps other neurons": "only the dense model's own weights could tell",
    "rows of the table shifted": "the router's accuracy may differ by a quarter from what router.json says",
}
