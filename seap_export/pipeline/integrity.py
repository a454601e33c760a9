"""Checks that the files of an export are complete and agree with one another, without running a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from converters.form import read_form
from converters.genai_config import genai_config
from converters.stored import interface_differences, refuse_bad_data
from seap_export.errors import ArtifactError, InputError, SeapError
from seap_export.families import ModelSpec, model_spec
from seap_export.pipeline.convert import GENAI_CONFIG
from seap_export.pipeline.manifest import MANIFEST, Manifest, read_artifact
from seap_export.pipeline.quality import QUALITY, quality_figures, recorded_quality
from seap_export.pipeline.settings import variant_name
from seap_export.plan.plan import Plan, read_plan
from seap_export.sources.config import read_json
from seap_export.sources.stored import StoredForm
from seap_export.sources.tokenizer import TOKENIZER_FILES
from seap_export.sources.weights import SafetensorsReader, check_weights

__all__ = ["PARTS", "folder_damages", "variant_damages"]

#: The parts of a variant.
PARTS = ("plan.json", "hf", "onnx")
_STEPS = (*PARTS, "parity.json")
#: The only setting in which a copied tokenizer differs: graphs need padding on the right.
_PADDING = "padding_side"


def folder_damages(folder: Path, manifest: Manifest) -> list[str]:
    """Damage to an output folder as a whole, in words."""
    found = []
    if not manifest.complete:
        found.append(f"{folder}: its last export did not finish; run the same command again")
    if not manifest.variants:
        found.append(f"{folder}: {MANIFEST} lists no variant; export again")
    made = {step.split("/")[0] for step in manifest.steps if step.endswith("/onnx")}
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
    missing = [f"{folder / part} is missing" for part in PARTS if not (folder / part).exists()]
    hashes = [] if manifest is None else list(_against_manifest(folder, manifest))
    if missing or hashes:
        return [*missing, *(line for line in hashes if line not in missing)]
    checks: list[Callable[[Path], Iterable[str]]] = [_plan_and_weights, _graph, _settings, _tokenizer]
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


def _against_manifest(folder: Path, manifest: Manifest) -> Iterator[str]:
    for step in (f"{folder.name}/{part}" for part in _STEPS):
        if step not in manifest.steps:
            yield f"{MANIFEST} does not list {step}"
        yield from manifest.damages(folder.parent, step)
    yield from manifest.damages(folder.parent, f"{folder.name}/{QUALITY}")
    for part in PARTS[1:]:
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder.parent).as_posix()
            if path.is_file() and name not in manifest.files and "__pycache__" not in path.parts:
                yield f"{path} is not in {MANIFEST}; remove it"


def _plan_and_weights(folder: Path) -> Iterator[str]:
    spec, plan = _spec(folder), read_plan(folder / "plan.json")
    reader = SafetensorsReader(folder / "hf")
    stored = StoredForm(spec).shapes
    check_weights(reader, stored, str(folder / "hf"))
    for name in sorted(reader.shapes().keys() - stored.keys()):
        yield f"{folder / 'hf'}: config.json does not describe the tensor '{name:.80}'"
    planned, found = _planned_shapes(plan), _shapes(spec)
    if plan.layout == "per-layer" and planned != found:
        layer = next((i for i, pair in enumerate(zip(planned, found, strict=False)) if pair[0] != pair[1]), 0)
        yield f"{folder}: plan.json and hf/config.json disagree from layer {layer} on"


def _planned_shapes(plan: Plan) -> list[tuple[int, int, int]]:
    return [(len(layer.heads), len(layer.kv_groups), len(layer.neurons)) for layer in plan.layers]


def _shapes(spec: ModelSpec) -> list[tuple[int, int, int]]:
    return [(own.num_attention_heads, own.num_key_value_heads, own.intermediate_size) for own in spec.layers]


def _graph(folder: Path) -> Iterator[str]:
    refuse_bad_data(folder / "onnx")
    form = read_form(folder / "onnx" / "model.onnx")
    yield from (f"{folder}: {line}" for line in interface_differences(folder / "hf", folder / "onnx", form))


def _settings(folder: Path) -> Iterator[str]:
    """Differences between genai_config.json and what the model requires."""
    config = read_json(folder / "hf" / "config.json")
    generation = folder / "hf" / "generation_config.json"
    defaults = read_json(generation) if generation.is_file() else None
    form = read_form(folder / "onnx" / "model.onnx")
    expected = genai_config(model_spec(config), config, defaults, form)
    found = read_artifact(folder / "onnx" / GENAI_CONFIG)
    for section in expected.keys() | found.keys():
        wanted, own = expected.get(section), found.get(section)
        if wanted != own:
            yield f"{folder / 'onnx' / GENAI_CONFIG}: its '{section:.40}' differs from hf/{_difference(wanted, own)}"


def _difference(wanted: Any, found: Any) -> str:
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return ""
    keys = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    return f" ({', '.join(sorted(map(str, keys)))})"


def _tokenizer(folder: Path) -> Iterator[str]:
    """Differences between the graph's tokenizer and chat template and the model's."""
    for name in TOKENIZER_FILES:
        model, graph = (folder / part / name for part in ("hf", "onnx"))
        if model.is_file() != graph.is_file():
            if name != "tokenizer_config.json":
                yield f"{folder}: {name} exists only in {'hf' if model.is_file() else 'onnx'}"
        elif model.is_file() and model.read_bytes() != graph.read_bytes() and not _is_same_config(name, model, graph):
            yield f"{folder}: {name} differs between onnx and hf"


def _entry(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Differences between the variant's entry in the manifest and its files."""
    plan, spec = read_plan(folder / "plan.json"), _spec(folder)
    parity = read_artifact(folder / "parity.json")
    entry = manifest.variants.get(folder.name)
    if entry is None:
        yield f"{MANIFEST} does not list the variant {folder.name}"
        return
    found = {
        "task": plan.task,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "num_parameters": spec.num_parameters(),
        "precision": read_form(folder / "onnx" / "model.onnx").precision.name,
        "parity": {key: parity.get(key) for key in entry.get("parity", {})},
        "quality": None if (quality := recorded_quality(folder)) is None else quality_figures(quality),
    }
    for key, value in found.items():
        if entry.get(key) != value:
            yield f"{MANIFEST} and the files of {folder.name} disagree on {key}"
    if manifest.source.get("sha256") != plan.source_sha256:
        yield f"{folder}: plan.json and {MANIFEST} name different dense models"
    if folder.name != variant_name(plan.task, plan.requested_ratio):
        yield f"{folder}: plan.json is for {plan.task} at ratio {plan.requested_ratio:g}"


def _is_same_config(name: str, model: Path, graph: Path) -> bool:
    if name != "tokenizer_config.json":
        return False
    own, other = read_artifact(model), read_artifact(graph)
    return {**own, _PADDING: "right"} == other


def _spec(folder: Path) -> ModelSpec:
    try:
        return model_spec(read_json(folder / "hf" / "config.json"))
    except SeapError as error:
        raise ArtifactError(str(error)) from error
