"""Checks that the files of an export are complete and agree with one another, without running a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from converters.comparison import Comparison
from converters.formats import FORMATS, format_name, read_format
from converters.hf.format import model_damages
from seap_export.common.checksums import LEFT_BY_OTHERS, SUMS, checksum_damages, listed_files
from seap_export.common.json_file import read_artifact
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError, InputError
from seap_export.pipeline.evaluation.quality import recorded_figures
from seap_export.pipeline.folder.contents import Export, Variant
from seap_export.pipeline.folder.manifest import MANIFEST
from seap_export.pipeline.folder.names import CARD, HF, PLAN, parity_file, variant_name
from seap_export.pipeline.gate.code import code_damages
from seap_export.pipeline.gate.signature import signatures


def folder_damages(export: Export) -> list[str]:
    """Damage to an output folder as a whole, in words."""
    folder, manifest, damages = export.path, export.manifest, []
    if not manifest.variants:
        damages.append(
            f"{folder}: {MANIFEST} lists no variant; finish the export, or give the folder of a variant made by hand"
        )
    elif not manifest.complete:
        damages.append(f"{folder}: its last export did not finish; run the same command again")
    made = {step.split("/")[0] for step in manifest.steps if step.endswith(f"/{HF}")}
    damages += [
        f"{folder / name}: not listed in {MANIFEST}; run the same export again"
        for name in sorted(made - manifest.variants.keys())
    ]
    others = [step for step in manifest.steps if step.split("/")[0] not in made]
    damages += [damage for step in others for damage in manifest.damages(folder, step)]
    return damages


def variant_damages(variant: Variant, is_recorded: bool, compared: Callable[[Path], Comparison]) -> list[str]:
    """Damage to a variant's files, in words; `compared` compares one of its folders with its model."""
    folder, folders = variant.path, _recorded(variant) if is_recorded else _least(variant)
    missing = [f"{folder / part} is missing" for part in (PLAN, HF, *folders) if not (folder / part).exists()]
    hashes = list(_against_manifest(variant)) if is_recorded else []
    if missing or hashes:
        return [*missing, *(line for line in hashes if line not in missing)]
    if foreign := list_damages(variant) or code_damages(folder):
        return foreign
    checks: list[Callable[[Variant], Iterable[str]]] = [
        _plan_and_weights,
        *(partial(_form, compared, folder.path) for folder in variant.formats),
        *([_entry] if is_recorded else []),
    ]
    damages: list[str] = []
    for check in checks:
        try:
            damages += check(variant)
        except (ArtifactError, InputError) as error:
            damages.append(str(error))
        if damages:  # later checks would only repeat it
            break
    return damages


def list_damages(variant: Variant) -> list[str]:
    """How a variant differs from its lists, in words.

    Folders that `convert` wrote into it have lists of their own, and one made by hand has no other.
    """
    folders, signed = variant.folders, [path.name for path in signatures(variant)]
    if (variant.path / SUMS).exists():
        return checksum_damages(variant.path, [*folders, *signed])
    known = {
        PLAN,
        *LEFT_BY_OTHERS,
        *signed,
        *folders,
        *(file.name for folder in folders.values() for file in (folder.parity_file, folder.quality_file)),
    }
    others = [path for path in sorted(variant.path.iterdir()) if path.name not in known or path.is_symlink()]
    lines = (line for folder in folders.values() for line in checksum_damages(folder.path))
    return [*(f"{path} does not belong to a variant; remove it" for path in others), *lines]


def _recorded(variant: Variant) -> list[str]:
    """The folders beside `hf` that the manifest names."""
    entry = variant.export.manifest.variants.get(variant.name, {})
    made = [part for part in variant.export.parts_of(variant.name) if format_name(part) in FORMATS]
    return [name for name in dict.fromkeys([*entry.get("bytes", ()), *made]) if name != HF]


def _least(variant: Variant) -> list[str]:
    """The folder beside `hf` that must be there without a manifest."""
    return [] if variant.formats else [OWN_FORMAT]


def _against_manifest(variant: Variant) -> Iterator[str]:
    manifest, out, folders = variant.export.manifest, variant.path.parent, _recorded(variant)
    lists = (SUMS, *(f"{part}/{SUMS}" for part in (HF, *folders)))
    expected = [f"{variant.name}/{part}" for part in (PLAN, HF, *folders, *map(parity_file, folders), *lists)]
    yield from (
        f"{MANIFEST} does not list {step}; run the same export again"
        for step in expected
        if step not in manifest.steps
    )
    made = [step for step in manifest.steps if step.startswith(f"{variant.name}/")]
    for step in dict.fromkeys([*expected, *made]):
        yield from manifest.damages(out, step)


def _plan_and_weights(variant: Variant) -> Iterator[str]:
    folder, spec, plan = variant.path, variant.spec, variant.plan
    yield from model_damages(variant.hf)
    planned, stored = [layer.sizes for layer in plan.layers], [layer.sizes for layer in spec.layers]
    if plan.settings.layout == "per-layer" and planned != stored:
        layer = next((i for i, pair in enumerate(zip(planned, stored, strict=False)) if pair[0] != pair[1]), 0)
        yield f"{folder}: plan.json and hf/config.json disagree from layer {layer} on"
    if plan.vocabulary is not None and len(plan.vocabulary) != spec.vocab_size:
        yield f"{folder}: plan.json and hf/config.json disagree on the number of tokens"


def _form(compared: Callable[[Path], Comparison], folder: Path, _: Variant) -> Iterable[str]:
    return compared(folder).form


def _entry(variant: Variant) -> Iterator[str]:
    """Differences between the variant's entry in the manifest and its files."""
    folder, plan, manifest = variant.path, variant.plan, variant.export.manifest
    entry = manifest.variants.get(variant.name)
    if entry is None:
        yield f"{MANIFEST} does not list the variant {variant.name}"
        return
    for name in listed_files(folder):
        if f"{variant.name}/{name}" not in manifest.files:
            yield f"{MANIFEST} does not list {folder / name}; run the same export again"
    folders = _recorded(variant)
    values = {
        "task": plan.task,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "num_parameters": variant.spec.num_parameters(),
        "precision": {name: read_format(folder / name).precision for name in folders},
        "parity": {name: _verdict(folder / parity_file(name), entry["parity"].get(name, {})) for name in folders},
        "quality": recorded_figures(variant),
    }
    for key, value in values.items():
        if entry.get(key) != value:
            yield f"{MANIFEST} and the files of {variant.name} disagree on {key}"
    if manifest.source.get("sha256") != plan.source_sha256:
        yield f"{folder}: plan.json and {MANIFEST} name different dense models"
    if manifest.has_outdated_card(variant.name):
        yield f"{variant.hf / CARD} shows other figures than {MANIFEST}; run the same export again"
    if variant.name != variant_name(plan.task, plan.requested_ratio):
        yield f"{folder}: plan.json is for {plan.task} at ratio {plan.requested_ratio:g}"


def _verdict(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a parity report that the manifest's entry repeats."""
    report = read_artifact(path)
    return {key: report.get(key) for key in entry}
