"""What the machine has, as `doctor` reported it, and whether it is enough for a step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from validation.readiness.request import Request
from validation.readiness.step import Step


def missing_file(step: Step) -> str:
    """What an earlier step should have left and did not, in words; "" if all is there."""
    missing = next((path for path in step.after if not path.exists()), None)
    return f"an earlier step did not leave {missing}" if missing else ""


def shortage(step: Step, request: Request) -> str:
    """What the machine has too little of for a step, in words; "" if it has enough."""
    free = shutil.disk_usage(request.work).free
    if step.replaces:
        free += sum(path.stat().st_size for path in step.replaces.rglob("*") if path.is_file())
    needs = [("disk space", step.disk_bytes, free)]
    doctor = read_json(request.result("doctor"))
    if step.memory_bytes:
        needs.append(("memory", step.memory_bytes, _number(doctor.get("machine", {}).get("free_memory_bytes"))))
    if request.provider == "cuda" and step.gpu_bytes:
        gpus = doctor.get("driver", {}).get("gpus") or [{"memory_bytes": 0}]
        needs.append(("GPU memory", step.gpu_bytes, _number(gpus[0].get("memory_bytes"))))
    short = [
        f"{needed / 1e9:.1f} GB of {what}, here are {here / 1e9:.1f}" for what, needed, here in needs if needed > here
    ]
    return f"it needs {'; '.join(short)}" if short else ""


def read_json(path: Path) -> dict[str, Any]:
    """What a step left; empty if it left nothing that can be read."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
