"""Manifests, plans and reports that are damaged or contradict what lies beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from planted.editing import Artifact, flip_byte
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.manifest, change)


def _set(**values: Any) -> Change:
    return _manifest(lambda manifest: manifest.update(values))


def _file_lost(manifest: dict[str, Any]) -> None:
    del manifest["files"]["a-0/onnx/model.onnx"]


def _hash_changed(manifest: dict[str, Any]) -> None:
    entry = manifest["files"]["a-0/onnx/model.onnx.data"]
    entry["sha256"] = entry["sha256"][::-1]


def _size_changed(manifest: dict[str, Any]) -> None:
    manifest["files"]["a-0/hf/config.json"]["bytes"] += 1


def _file_too_many(manifest: dict[str, Any]) -> None:
    manifest["files"]["a-0/onnx/more.data"] = manifest["files"]["a-0/onnx/model.onnx.data"]


def _variant_lost(manifest: dict[str, Any]) -> None:
    del manifest["variants"]["b-0.2"]


def _verdict(manifest: dict[str, Any]) -> None:
    manifest["variants"]["a-0"]["parity"]["onnx"].update(verdict="failed", failure="max abs 1")


def _variant(**values: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest["variants"]["a-0.2"].update(values)

    return _manifest(change)


def _steps_lost(manifest: dict[str, Any]) -> None:
    del manifest["steps"]["a-0/hf"]


def _text(text: str) -> Change:
    return lambda artifact: artifact.manifest.write_text(text, "utf-8")


def _plan(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.variant / "plan.json", change)


def _plan_keeps_less(plan: dict[str, Any]) -> None:
    del plan["layers"][1]["neurons"][-1]


def _plan_keeps_others(plan: dict[str, Any]) -> None:
    """As many neurons, other ones: the shapes do not tell."""
    neurons = plan["layers"][1]["neurons"]
    missing = next(index for index in range(80) if index not in neurons)
    plan["layers"][1]["neurons"] = sorted([*neurons[1:], missing])


def _plan_of_b(artifact: Artifact) -> None:
    shutil.copyfile(artifact.out / "b-0.2" / "plan.json", artifact.variant / "plan.json")


def _plan_no_json(artifact: Artifact) -> None:
    (artifact.variant / "plan.json").write_text("{", "utf-8")


def _folder_lost(name: str) -> Change:
    return lambda artifact: shutil.rmtree(artifact.out / name)


FAULTS: tuple[Fault, ...] = (
    damage("manifest lacks a file", "whole", _manifest(_file_lost)),
    damage("manifest has another hash", "whole", _manifest(_hash_changed)),
    damage("manifest has another size", "whole", _manifest(_size_changed)),
    damage("manifest has a file too many", "whole", _manifest(_file_too_many)),
    damage("manifest not complete", "whole", _set(complete=False)),
    damage("manifest lacks a variant", "routed", _manifest(_variant_lost)),
    damage("manifest lacks all variants", "tied", _set(variants={})),
    damage("manifest lacks all files", "tied", _set(files={})),
    damage("manifest lacks a step", "whole", _manifest(_steps_lost)),
    damage("manifest of another schema", "whole", _set(schema="seap-export/manifest/1")),
    damage("manifest with a key too many", "whole", _set(more={})),
    damage("manifest no JSON", "whole", _text('{"schema": ')),
    damage("manifest empty", "int4", _text("")),
    damage("manifest missing", "whole", lambda artifact: artifact.manifest.unlink()),
    damage("manifest: parity has failed", "whole", _manifest(_verdict)),
    damage("manifest: another precision", "routed", _variant(precision={"onnx": "int4"})),
    damage("manifest: another ratio", "routed", _variant(achieved_ratio=0.4)),
    damage("manifest: other parameters", "routed", _variant(num_parameters=1000)),
    damage("manifest: another task", "routed", _variant(task="b")),
    damage("variant missing", "routed", _folder_lost("b-0.2")),
    damage("model of a variant missing", "tied", _folder_lost("a-0.2/hf")),
    damage(
        "calibration changed",
        "half",
        lambda artifact: flip_byte(artifact.out / "calibration" / "a" / "layer-00000.safetensors", 0.9),
    ),
    damage("calibration missing", "window", _folder_lost("calibration/a")),
    damage("parity report missing", "qwen3", lambda artifact: (artifact.variant / "parity.json").unlink()),
    damage("plan changed", "routed", _plan(_plan_keeps_less)),
    quiet("plan keeps less", "routed", _plan(_plan_keeps_less)),
    quiet("plan of another model", "routed", _plan(lambda plan: plan.update(source_sha256="0" * 64))),
    quiet("plan of another ratio", "routed", _plan(lambda plan: plan.update(achieved_ratio=0.5))),
    quiet("plan of another layout", "standard", _plan(lambda plan: plan.update(layout="per-layer"))),
    quiet("plan lacks a layer", "tied", _plan(lambda plan: plan["layers"].pop())),
    quiet("plan of another variant", "routed", _plan_of_b),
    quiet("plan of another schema", "int4", _plan(lambda plan: plan.update(schema="seap-export/plan/2"))),
    quiet("plan no JSON", "qwen3", _plan_no_json),
    quiet("plan keeps other neurons", "routed", _plan(_plan_keeps_others)),
    quiet(
        "parity report says it failed",
        "whole",
        lambda artifact: edit_json(artifact.variant / "parity.json", lambda report: report.update(verdict="failed")),
    ),
)
