"""Checks that the files of an export are complete and agree with one another, without running a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from converters.formats import FORMATS, format_folders, read_format
from seap_export.errors import ArtifactError, InputError, SeapError
from seap_export.families import ModelSpec
from seap_export.json_file import read_artifact
from seap_export.pipeline.evaluation.quality import QUALITY, quality_figures, recorded_quality
from seap_export.pipeline.folder.manifest import MANIFEST, Manifest
from seap_export.pipeline.folder.names import parity_file, variant_name
from seap_export.plan.plan import Plan, read_plan
from seap_export.sources.config import read_spec

__all__ = ["PARTS", "folder_damages", "variant_damages"]

#: What every variant has.
PARTS = ("plan.json", "hf")


def folder_damages(folder: Path, manifest: Manifest) -> list[str]:
    """Damage to an output folder as a whole, in words."""
    found = []
    if not manifest.complete:
        found.append(f"{folder}: its last export did not finish; run the same command again")
    if not manifest.variants:
        found.append(f"{folder}: {MANIFEST} lists no variant; export again")
    made = {step.split("/")[0] for step in manifest.steps if step.endswith("/hf")}
    found += [
        f"{folder / name}: not listed in {MANIFEST}; run the same export again"
        for name in sorted(made - manifest.variants.keys())
    ]
    others = [step for step in manifest.steps if step.split("/")[0] not in made]
    found += [damage for step in others for damage in manifest.damages(folder, step)]
    return found


def variant_damages(folder: Path, manifest: Manifest | None) -> list[str]:
    """Damage to a variant's files, in words.

    Args:
        folder: The variant's folder.
        manifest: The output folder's manifest; None: there is none, and hashes are not compared.
    """
    parts = (*PARTS, *_recorded(folder, manifest))
    missing = [f"{folder / part} is missing" for part in parts if not (folder / part).exists()]
    hashes = [] if manifest is None else list(_against_manifest(folder, manifest))
    if missing or hashes:
        return [*missing, *(line for line in hashes if line not in missing)]
    written = [path.name for path in format_folders(folder) if path.name != "hf"]
    checks: list[Callable[[Path], Iterable[str]]] = [
        _plan_and_weights,
        *(partial(_files, part=name) for name in written),
    ]
    if manifest is not None:
        checks.append(partial(_entry, manifest=manifest))
    found: list[str] = []
    for check in checks:
        try:
            found += check(folder)
        except (ArtifactError, InputError) as error:
            found.append(str(error))
        if found:  # later checks would only repeat it
            return found
    return found


def _recorded(folder: Path, manifest: Manifest | None) -> list[str]:
    """The folders beside `hf` that must be there: those that the manifest names, or without one at least `onnx`."""
    if manifest is None:
        return [] if any(path.name != "hf" for path in format_folders(folder)) else ["onnx"]
    entry = manifest.variants.get(folder.name, {})
    steps = [step.split("/")[1] for step in manifest.steps if step.startswith(f"{folder.name}/")]
    named = [*entry.get("bytes", ()), *(name for name in steps if name.partition("-")[0] in FORMATS)]
    return [name for name in dict.fromkeys(named) if name != "hf"]


def _against_manifest(folder: Path, manifest: Manifest) -> Iterator[str]:
    written = _recorded(folder, manifest)
    for step in (f"{folder.name}/{part}" for part in (*PARTS, *written, *map(parity_file, written))):
        if step not in manifest.steps:
            yield f"{MANIFEST} does not list {step}"
        yield from manifest.damages(folder.parent, step)
    yield from manifest.damages(folder.parent, f"{folder.name}/{QUALITY}")
    for part in ("hf", *written):
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder.parent).as_posix()
            if path.is_file() and name not in manifest.files and "__pycache__" not in path.parts:
                yield f"{path} is not in {MANIFEST}; remove it"


def _plan_and_weights(folder: Path) -> Iterator[str]:
    spec, plan = _spec(folder), read_plan(folder / "plan.json")
    yield from _files(folder, "hf")
    planned, found = _planned_shapes(plan), _shapes(spec)
    if plan.layout == "per-layer" and planned != found:
        layer = next((i for i, pair in enumerate(zip(planned, found, strict=False)) if pair[0] != pair[1]), 0)
        yield f"{folder}: plan.json and hf/config.json disagree from layer {layer} on"
    if plan.vocabulary is not None and len(plan.vocabulary) != spec.vocab_size:
        yield f"{folder}: plan.json and hf/config.json disagree on the number of tokens"


def _files(folder: Path, part: str) -> Iterator[str]:
    """Damage to the files of one format."""
    return read_format(folder / part).damages(folder / "hf", folder / part)


def _planned_shapes(plan: Plan) -> list[tuple[int, int, int]]:
    return [(len(layer.heads), len(layer.kv_groups), len(layer.neurons)) for layer in plan.layers]


def _shapes(spec: ModelSpec) -> list[tuple[int, int, int]]:
    return [(own.num_attention_heads, own.num_key_value_heads, own.intermediate_size) for own in spec.layers]


def _entry(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Differences between the variant's entry in the manifest and its files."""
    plan, spec = read_plan(folder / "plan.json"), _spec(folder)
    entry = manifest.variants.get(folder.name)
    if entry is None:
        yield f"{MANIFEST} does not list the variant {folder.name}"
        return
    written = _recorded(folder, manifest)
    found = {
        "task": plan.task,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "num_parameters": spec.num_parameters(),
        "precision": {name: read_format(folder / name).precision for name in written},
        "parity": {name: _verdict(folder / parity_file(name), entry["parity"].get(name, {})) for name in written},
        "quality": None if (quality := recorded_quality(folder)) is None else quality_figures(quality),
    }
    for key, value in found.items():
        if entry.get(key) != value:
            yield f"{MANIFEST} and the files of {folder.name} disagree on {key}"
    if manifest.source.get("sha256") != plan.source_sha256:
        yield f"{folder}: plan.json and {MANIFEST} name different dense models"
    if folder.name != variant_name(plan.task, plan.requested_ratio):
        yield f"{folder}: plan.json is for {plan.task} at ratio {plan.requested_ratio:g}"


def _verdict(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a parity report says of what the manifest repeats of it."""
    report = read_artifact(path)
    return {key: report.get(key) for key in entry}


def _spec(folder: Path) -> ModelSpec:
    try:
        return read_spec(folder / "hf")
    except SeapError as error:
        raise ArtifactError(str(error)) from error
