"""Describes what is at a path, as plain values."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, read_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import is_pruned, model_spec
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.weights import SafetensorsReader, check_weights, main_dtype
from seap_export.pipeline.evaluation.quality import recorded_figures, recorded_quality
from seap_export.pipeline.evaluation.speed import recorded_speed
from seap_export.pipeline.folder.contents import Export, Variant, open_folder
from seap_export.pipeline.folder.names import HF, calibration_step
from seap_export.pruning.plan.sublayers import whole_words
from validation.reports.figures import accuracies


def describe(path: str) -> dict[str, Any]:
    """Describes an export, a variant or a model; the key `kind` says which.

    Raises:
        ArtifactError: A file of an export differs from the manifest, or a variant is damaged.
        InputError: The path is none of these.
    """
    expanded = Path(os.path.expanduser(path))
    contents = open_folder(expanded)
    if isinstance(contents, Export):
        return _export(contents)
    if contents is not None:
        return _variant(contents)
    if (expanded / "config.json").is_file():
        return _model(expanded)
    if expanded.is_file() and expanded.suffix == ".gguf":
        return _gguf(expanded)
    raise InputError(f"{path}: not an export, a variant, a model folder or a .gguf file; give one of these")


def _export(export: Export) -> dict[str, Any]:
    manifest = export.manifest
    damages = [damage for step in manifest.steps for damage in manifest.damages(export.path, step)]
    if damages:
        raise ArtifactError("; ".join(damages) + "; export again with --force")
    return {
        "kind": "export",
        "complete": manifest.complete,
        "source": manifest.source,
        "calibrations": [
            step.split("/")[1] for step in manifest.steps if step == calibration_step(step.split("/")[-1])
        ],
        "tasks": manifest.tasks,
        "variants": {name: {**entry, **_measured(export.variant(name))} for name, entry in manifest.variants.items()},
        "files": len(manifest.files),
        "bytes": sum(entry["bytes"] for entry in manifest.files.values()),
    }


def _measured(variant: Variant) -> dict[str, Any]:
    """The figures that the manifest lacks: the speed, and each folder's right answers by task."""
    quality, folders = recorded_quality(variant), [HF, *(folder.name for folder in variant.formats)]
    right = {folder: of_tasks for folder in folders if (of_tasks := accuracies(quality, folder))}
    return {"speed": recorded_speed(variant), "accuracy": right}


def _variant(variant: Variant) -> dict[str, Any]:
    plan = variant.plan
    return {
        "kind": "variant",
        "task": plan.task,
        "weights": dict(plan.weights),
        "source": plan.source_name,
        "method": plan.method,
        "score": plan.settings.score,
        "sparsity": vars(plan.settings.sparsity),
        "layout": plan.settings.layout,
        "align": plan.settings.align,
        "group_tolerance": plan.settings.group_tolerance,
        "balance": plan.settings.balance,
        "compensation": plan.settings.compensation,
        "biases": plan.settings.biases,
        "ridge": plan.settings.ridge,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "vocabulary": None if plan.vocabulary is None else {"tokens": len(plan.vocabulary), "of": plan.vocabulary.of},
        "parity": {
            name: read_artifact(folder.parity_file)
            for name, folder in variant.folders.items()
            if folder.parity_file.is_file()
        },
        "warning": _remarks(variant),
        "quality": recorded_figures(variant),
        **_measured(variant),
        "model": _model(variant.hf) if variant.hf.is_dir() else None,
    }


def _remarks(variant: Variant) -> str | None:
    """Remarks on the speed or size that the model's shapes cost in the formats, joined; None if there are none."""
    if not variant.config_file.is_file():
        return None
    remarks = dict.fromkeys(folder.format.remark(variant.spec) for folder in variant.formats)
    return "; ".join(remark for remark in remarks if remark is not None) or None


def _model(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    spec = model_spec(config)
    reader = SafetensorsReader(folder)
    check_weights(reader, StoredForm(spec).shapes, str(folder))
    return {"pruned": is_pruned(config), **_shapes(folder.resolve().name, spec, reader)}


def _gguf(path: Path) -> dict[str, Any]:
    from seap_export.model.sources.gguf.header import read_header
    from seap_export.model.sources.open import open_source

    source, numbers = open_source(str(path)), Counter[str]()
    for tensor in read_header(path)[1].values():
        numbers[tensor.kind.name] += math.prod(tensor.shape)
    shapes = _shapes(source.name, source.spec, source.reader)
    return {"pruned": False, **shapes, "dtype": max(numbers, key=numbers.__getitem__)}


def _shapes(name: str, spec: Any, reader: Any) -> dict[str, Any]:
    return {
        "kind": "model",
        "name": name,
        "family": spec.family.model_type,
        "num_parameters": spec.num_parameters(),
        "dtype": str(main_dtype(reader)).removeprefix("torch."),
        "hidden_size": spec.hidden_size,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "layers": [layer.sizes for layer in spec.layers],
        **({"whole": whole} if (whole := whole_words(spec)) else {}),
    }
