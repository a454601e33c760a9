"""Checks that an output folder's router selects the right variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from seap_export.common.json_file import read_artifact
from seap_export.corpus import Sample
from seap_export.errors import SeapError
from seap_export.model.vocabulary.tokenizer import cut_tokenizer
from seap_export.pipeline.folder.contents import Export, Variant
from seap_export.pipeline.folder.manifest import Manifest
from seap_export.pipeline.folder.names import calibration_step
from seap_export.pruning.activations.statistics import Calibration
from seap_export.runtime.chat import template_sources
from seap_export.runtime.manifest import ROUTER_FOLDER, ROUTER_GRAPH, RouterManifest
from seap_export.runtime.router import Router

#: router.json leaves out held-out prompts that also occur in calibration, and this check does not, so the two
#: accuracies differ a little; swapped classes make them differ by far more.
_TOLERANCE = 0.25


def router_damages(export: Export) -> list[str]:
    """Damage to the router, in words: its files, its targets, or its answers to held-out prompts."""
    folder, manifest = export.path, export.manifest
    damages = manifest.damages(folder, ROUTER_FOLDER)
    if damages:
        return damages
    try:
        router = Router(folder / ROUTER_FOLDER)
        return [
            *_lost_targets(router.manifest, folder, manifest),
            *_other_model(router.manifest, export),
            *_wrong_answers(router, folder),
        ]
    except SeapError as error:
        return [str(error)]


def _lost_targets(router: RouterManifest, folder: Path, manifest: Manifest) -> list[str]:
    targets = {name for names in router.variants.values() for name in names.values()}
    targets |= {name for name in router.fallback.values() if name is not None}
    lost = sorted(name for name in targets if name not in manifest.variants or not (folder / name).is_dir())
    unknown = sorted(set(router.classes) - manifest.tasks.keys())
    swapped = [
        name
        for names in router.variants.values()
        for task, name in names.items()
        if name in manifest.variants and manifest.variants[name].get("task") != task
    ]
    return [
        *(f"router.json refers to '{name}', which is not a variant in {folder}" for name in lost),
        *(f"router.json has a task '{task}' that {folder} does not have" for task in unknown),
        *(f"router.json uses '{name}' for a task that it was not made for" for name in sorted(swapped)),
    ]


def _other_model(router: RouterManifest, export: Export) -> list[str]:
    """Checks that its dense model, tokenizer and values match those of the variants."""
    damages, router_folder = [], export.path / ROUTER_FOLDER
    if router.source.get("sha256") != export.manifest.source.get("sha256"):
        damages.append("router.json belongs to another dense model than manifest.json")
    for variant in export.variants:
        is_there = (variant.hf / "tokenizer.json").is_file()
        if is_there and _tokenizer(variant.hf) != _cut_for(variant, _tokenizer(router_folder)):
            damages.append(f"the router's tokenizer or chat template differs from that of {variant.name}")
    if not all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in _floats(router_folder)):
        damages.append("router.onnx holds NaN or infinite values")
    return damages


def _tokenizer(folder: Path) -> list[Any]:
    """The parts of a tokenizer and its chat template that must agree; class and padding may differ."""
    config = folder / "tokenizer_config.json"
    templates = template_sources(folder, read_artifact(config) if config.is_file() else {})
    return [read_artifact(folder / "tokenizer.json"), templates]


def _cut_for(variant: Variant, tokenizer: list[Any]) -> list[Any]:
    """The router's tokenizer as it must be in a variant, which may have fewer tokens."""
    kept = variant.vocabulary
    if kept is None:
        return tokenizer
    try:
        return [cut_tokenizer(tokenizer[0], kept), *tokenizer[1:]]
    except (KeyError, TypeError, ValueError, AttributeError):  # a tokenizer of another kind, or with other tokens
        return []


def _floats(router_folder: Path) -> list[onnx.TensorProto]:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    graph = onnx.load(router_folder / ROUTER_GRAPH).graph
    return [tensor for tensor in graph.initializer if tensor.data_type in kinds]


def _wrong_answers(router: Router, folder: Path) -> list[str]:
    right = prompt_count = 0
    for number, task in enumerate(router.manifest.classes):
        statistics = folder / calibration_step(task)
        if not statistics.is_dir():
            return []
        samples = Calibration(statistics).record.held_out
        prompts = [ids for ids in (router.token_ids(Sample(**sample).question) for sample in samples) if ids]
        if prompts:
            right += int((router.probabilities(prompts).argmax(axis=1) == number).sum())
            prompt_count += len(prompts)
    recorded = router.manifest.held_out.get("accuracy")
    if not prompt_count or not isinstance(recorded, int | float) or right / prompt_count >= recorded - _TOLERANCE:
        return []
    return [
        f"the router is right on {right / prompt_count:.0%} of the held-out prompts; router.json says {recorded:.0%}"
    ]
