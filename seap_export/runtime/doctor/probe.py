"""The process that runs one check and prints the result as JSON on its last line.

python -m seap_export.runtime.doctor.probe driver|device|libraries|session|attention [PROVIDER]
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seap_export.common.providers import PROVIDERS
from seap_export.errors import SeapError
from seap_export.runtime.doctor.libraries import library_names, load_libraries
from seap_export.runtime.doctor.models import TRIALS, ProbeModel
from seap_export.runtime.driver import read_driver
from seap_export.runtime.providers import device_name, one_line, prepare
from seap_export.runtime.session import ORT_ERRORS, nodes_by_provider, open_session

#: Largest accepted difference from float64; values are near 1, where float16 has steps of 0.001.
TOLERANCE = 0.01
#: The advice in a session's error, which is meant for other commands.
_ADVICE = re.compile(r"; (?:install|set the environment|run: pip|use --provider cpu).*")
_FAILURES: tuple[type[Exception], ...] = (SeapError, OSError, *ORT_ERRORS)


def answer(what: str, provider: str = "cpu") -> dict[str, Any]:
    if what == "driver":
        return asdict(read_driver())
    if what == "device":
        return {"name": device_name(provider)}
    if what == "libraries":
        return {"libraries": [asdict(library) for library in _libraries(provider)]}
    if what not in TRIALS:
        raise ValueError(f"there is no check called {what}")
    return try_model(TRIALS[what], provider)


def try_model(trial: ProbeModel, provider: str) -> dict[str, Any]:
    """Runs a model on a provider and compares its output."""
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(trial.model)
            session = open_session(path, provider, 1)
            output = session.run(None, trial.feeds())[0]
            nodes = nodes_by_provider(session) or {}
    except _FAILURES as error:
        return {"reason": _ADVICE.sub("", one_line(error)), "difference": None}
    difference = float(np.abs(output.astype(np.float64) - trial.expected()).max())
    if not np.isfinite(difference):
        return {"reason": f"{trial.name} returns numbers that are not finite", "difference": None}
    reason = ""
    if difference > TOLERANCE:
        reason = f"{trial.name} is wrong by {difference:.2g}"
    elif provider != "cpu" and trial.node in nodes.get(PROVIDERS["cpu"].ort_name, {}):
        reason = f"{trial.name} runs on the CPU instead"
    return {"reason": reason, "difference": difference}


def _libraries(provider: str) -> list[Any]:
    try:
        prepare(provider)
    except SeapError:  # the provider is not built in, so its libraries do not matter
        return []
    return load_libraries(library_names(provider))


def _main(arguments: Sequence[str]) -> None:
    print(json.dumps(answer(*arguments)))


if __name__ == "__main__":
    _main(sys.argv[1:])
