"""Manifests, plans and reports that are damaged or contradict what lies beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from planted.editing import flip_byte
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.manifest, change)


def _steps_lost(manifest: dict[str, Any]) -> None:
    del manifest["steps"]["a-0/hf"]


def _plan(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.variant / "plan.json", change)


def _plan_keeps_others(plan: dict[str, Any]) -> None:
    """As many neurons, other ones: the shapes do not tell."""
    neurons = plan["layers"][1]["neurons"]
    missing = next(index for index in range(80) if index not in neurons)
    plan["layers"][1]["neurons"] = sorted([*neurons[1:], missing])


def _folder_lost(name: str) -> Change:
    return lambda artifact: shutil.rmtree(artifact.out / name)


FAULTS: tuple[Fault, ...] = (
    damage("metadata", "manifest lacks a step", "whole", _manifest(_steps_lost)),
    damage("file", "model of a variant missing", "tied", _folder_lost("a-0.2/hf")),
    damage(
        "file",
        "calibration changed",
        "half",
        lambda artifact: flip_byte(artifact.out / "calibration" / "a" / "layer-00000.safetensors", 0.9),
    ),
    quiet("metadata", "plan of another layout", "standard", _plan(lambda plan: plan.update(layout="per-layer"))),
    quiet("metadata", "plan keeps other neurons", "routed", _plan(_plan_keeps_others)),
)
