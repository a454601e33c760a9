"""Records what figures were measured with: the versions in each environment."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.artifacts import Environments

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-genai", "torch", "transformers", "seap-export")
_PROGRAM = """
import json, platform, sys
from importlib import metadata
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(environments: Environments) -> dict[str, dict[str, str]]:
    """Versions of Python and of the packages that matter, for each environment."""
    return {name: _versions(Path(python)) for name, python in asdict(environments).items()}


def _versions(python: Path) -> dict[str, str]:
    command = [str(python), "-I", "-c", _PROGRAM, *_PACKAGES]
    versions: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return versions
