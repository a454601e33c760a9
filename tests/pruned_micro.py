"""Micro models of every family as an export prunes them: layers of different shapes, with biases of compensation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from calibrated import calibrate, micro_plan, micro_source, random_texts, skip_unless_loaded

from seap_export.plan.plan import Compensation
from seap_export.shrink.write import write_shrunk_model


def write_pruned_micro_model(
    folder: Path, variation: str, compensation: Compensation = "bias", dtype: str = "float32", **values: Any
) -> Path:
    """The folder `hf/` of a pruned micro model of one of the variations; `values` replace its dense config's."""
    with tempfile.TemporaryDirectory() as temporary:
        source = micro_source(Path(temporary) / "dense", variation, dtype, **values)
        skip_unless_loaded(source.spec.family, "per-layer")
        statistics = calibrate(source, Path(temporary) / "statistics", {"boolq": random_texts()})
        folder.mkdir(parents=True)
        write_shrunk_model(source, micro_plan(source, compensation), statistics, folder)
    return folder
