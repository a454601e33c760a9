"""The process that tries one provider, or asks the driver: each may crash or hang."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seap_export.common.child_process import answer_requests
from seap_export.common.providers import PROVIDERS
from seap_export.errors import ArtifactError, SeapError
from seap_export.runtime.doctor.models import TRIALS, ProbeModel
from seap_export.runtime.driver import read_driver
from seap_export.runtime.providers import device_name, one_line
from seap_export.runtime.session import ORT_ERRORS, nodes_by_provider, open_session

#: Largest accepted difference from float64; values are near 1, where float16 has steps of 0.001.
TOLERANCE = 0.01
_FAILURES: tuple[type[Exception], ...] = (SeapError, OSError, *ORT_ERRORS)


def answer(provider: str) -> dict[str, Any]:
    """What the driver says if no provider is named; else the failure of a provider, or how exact it is."""
    if not provider:
        return asdict(read_driver())
    try:
        difference = max(difference_of(trial, provider) for trial in TRIALS)
    except _FAILURES as error:
        return {"failure": one_line(error)}
    return {"difference": difference, "device": device_name(provider)}


def difference_of(trial: ProbeModel, provider: str) -> float:
    """Runs a model on a provider and compares its output; raises `ArtifactError` if it is wrong."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(trial.model)
        session = open_session(path, provider, 1)
        output = session.run(None, trial.feeds())[0]
    difference = float(np.abs(output.astype(np.float64) - trial.expected()).max())
    if not difference <= TOLERANCE:  # NaN is not, either
        raise ArtifactError(f"{trial.name} is wrong by {difference:.2g}")
    nodes = nodes_by_provider(session) or {}
    if provider != "cpu" and trial.node in nodes.get(PROVIDERS["cpu"].ort_name, {}):
        raise ArtifactError(f"{trial.name} runs on the CPU instead")
    return difference


if __name__ == "__main__":
    answer_requests(answer)
