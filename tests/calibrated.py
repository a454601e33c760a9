"""Micro models with statistics of random texts, and what transformers' own model computes of the same texts."""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from micro import VARIATIONS, write_micro_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from seap_export.activations.calibrate import collect_statistics
from seap_export.activations.mixture import Mixture
from seap_export.activations.moments import Moments
from seap_export.activations.statistics import (
    Calibration,
    CalibrationRecord,
    HalfStatistics,
    write_layer,
    write_record,
    write_sensitivity,
    write_tokens,
)
from seap_export.families import Family, LayerSpec, family_of_model_type
from seap_export.layers.compute import Compute
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.kept import UNFINISHED
from seap_export.plan.plan import Compensation, LayerPlan, Layout, Plan
from seap_export.plan.solve import keeps_heads
from seap_export.plan.sparsity import Sparsity
from seap_export.sources.source import Source, open_source

Texts = Sequence[Sequence[int]]


def random_texts(number: int = 12, seed: int = 0, vocabulary: int = 96, longest: int = 30) -> list[list[int]]:
    """Token ids, 1 to 30 a text: shorter and longer than the window of 5, the padding id 0 among them."""
    chance = random.Random(seed)
    return [[chance.randrange(vocabulary) for _ in range(chance.randint(1, longest))] for _ in range(number)]


def micro_source(folder: Path, variation: str = "llama-gqa", dtype: str = "float32", **values: Any) -> Source:
    """A micro model of one of the variations."""
    return open_source(str(write_micro_model(folder, dtype=dtype, **{**VARIATIONS[variation], **values})))


def why_not_loaded(family: Family, layout: Layout) -> str | None:
    """What the installed release of transformers lacks to load models of a family; None: nothing."""
    release = transformers.__version__
    if not hasattr(transformers, family.architecture):
        return f"transformers {release} has no {family.architecture}"
    if layout == "per-layer" and family.uniform_keeps_heads == "always" and release.startswith("4."):
        return f"in transformers {release} {family.architecture} takes hidden_size / heads for the size of a head"
    return None


def skip_unless_loaded(family: Family, layout: Layout = "uniform") -> None:
    """Skips a test whose model the installed release of transformers does not have."""
    if reason := why_not_loaded(family, layout):
        pytest.skip(reason)


def load(folder: Path, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """transformers' own model; with soft caps on attention, which other backends ignore, in 4.57 without a word."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    family = family_of_model_type(config["model_type"])
    skip_unless_loaded(family, "per-layer" if "per_layer_config" in config else "uniform")
    capped = family.block.attention_softcap is not None
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager" if capped else None
    ).eval()


@torch.no_grad()
def divergence(dense: Path, variant: Path, texts: Texts) -> float:
    """The mean KL(dense || variant) over all tokens, in transformers' own class."""
    models, found = (load(dense), load(variant)), []
    for ids in texts:
        log_p, log_q = (model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1) for model in models)
        found.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return float(torch.cat(found).double().mean())


def projections(model: PreTrainedModel) -> dict[Half, str]:
    """Where transformers' decoder layers have o_proj and down_proj."""
    names = family_of_model_type(model.config.model_type).names
    return {half: names[half] for half in HALVES}


@torch.no_grad()
def projection_inputs(model: PreTrainedModel, texts: Texts) -> list[dict[str, torch.Tensor]]:
    """All inputs of o_proj and down_proj of each layer, [tokens, channels] float64: one text a time, unpadded."""
    seen: list[dict[str, list[torch.Tensor]]] = [defaultdict(list) for _ in model.model.layers]
    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(
            lambda _, args, own=record[name]: own.append(args[0][0].double())
        )
        for layer, record in zip(model.model.layers, seen, strict=True)
        for name, path in projections(model).items()
    ]
    for ids in texts:
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [{name: torch.cat(parts) for name, parts in record.items()} for record in seen]


@dataclass
class Full:
    """Statistics of one half, its covariance as a matrix."""

    moments: Moments
    covariance: torch.Tensor


def statistics_in(folder: Path, source: Source, texts: Texts, max_batch_tokens: int = 1024, **options: Any) -> Path:
    """The folder, with all but the record in it."""
    skip_unless_loaded(source.spec.family)
    folder.mkdir(parents=True, exist_ok=True)
    collect_statistics(source, texts, folder, Compute(batch_tokens=max_batch_tokens), **options)
    return folder


def opened(folder: Path, source: Source, task: str, texts: Texts) -> Calibration:
    """A calibration, given all but its record."""
    count = sum(map(len, texts))
    write_record(
        folder,
        CalibrationRecord(task, source.name, source.digest, 0, 64, count, (f"{task}-aa",), (f"{task}-bb",), ()),
    )
    return Calibration(folder)


def collect(source: Source, texts: Texts, max_batch_tokens: int = 1024) -> list[dict[Half, Full]]:
    """The statistics of every layer."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = statistics_in(Path(temporary), source, texts, max_batch_tokens)
        calibration = opened(folder, source, "task", texts)
        return [
            {
                half: Full(getattr(calibration.layer(index), half), calibration.covariance(index, half))
                for half in HALVES
            }
            for index in range(len(source.spec.layers))
        ]


def write_calibration(
    folder: Path,
    source: Source,
    task: str,
    layers: Sequence[Mapping[Half, HalfStatistics]],
    sensitivity: torch.Tensor,
    texts: Texts,
) -> Calibration:
    """Statistics on disk, opened."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, layer in enumerate(layers):
        write_layer(folder, index, layer)
    write_tokens(folder, texts)
    write_sensitivity(folder, sensitivity)
    (folder / UNFINISHED).rmdir()
    return opened(folder, source, task, texts)


def calibrate(source: Source, folder: Path, tasks: Mapping[str, Texts], **weights: float) -> Mixture:
    """The statistics of texts of several tasks, each with the weight 1 if none is given."""
    calibrations = {
        task: opened(statistics_in(folder / task, source, texts), source, task, texts) for task, texts in tasks.items()
    }
    name = "general" if len(tasks) > 1 else next(iter(tasks))
    return Mixture(name, dict.fromkeys(tasks, 1.0) | weights, calibrations)


def single(calibration: Calibration) -> Mixture:
    """The mixture of one task."""
    task = calibration.record.task
    return Mixture(task, {task: 1.0}, {task: calibration})


def layer_plan(own: LayerSpec, dropped_group: int | None, dropped_head: int | None, neurons: range) -> LayerPlan:
    """Without one KV group, if there are several, and in each other group without one head, another in each."""
    size = own.heads_per_group
    groups = [g for g in range(own.num_key_value_heads) if own.num_key_value_heads == 1 or g != dropped_group]
    heads = [
        g * size + head
        for g in groups
        for head in range(size)
        if size == 1 or dropped_head is None or head != (g + dropped_head) % size
    ]
    return LayerPlan(size, tuple(groups), tuple(heads), tuple(neurons))


def whole_layer(own: LayerSpec) -> LayerPlan:
    """All of a layer."""
    return layer_plan(own, None, None, range(own.intermediate_size))


def plan_of(source: Source, layers: Sequence[LayerPlan], compensation: Compensation, **values: Any) -> Plan:
    """A plan that keeps what is given."""
    fields: dict[str, Any] = {
        "task": "boolq",
        "weights": {"boolq": 1.0},
        "source_name": source.name,
        "source_sha256": source.digest,
        "method": "custom",
        "score": "wifv",
        "sparsity": Sparsity("uniform", protect_first=0, protect_last=0),
        "align": 1,
        "balance": "alike",
        "compensation": compensation,
        "ridge": 0.5,
        "distillation": 0.0,
        "requested_ratio": 0.3,
        "achieved_ratio": 0.3,
    }
    return Plan(**{**fields, **values}, layers=tuple(layers))


def uniform_plan(source: Source, compensation: Compensation, **values: Any) -> Plan:
    """All layers of one shape, half as wide, but each keeps other groups, heads (if they may go) and neurons."""
    own = source.spec.layers[0]
    size, all_groups = own.heads_per_group, own.num_key_value_heads
    left, each = {6: 3, 3: 2, 1: 1}[all_groups], max(size // 2, 1)
    if keeps_heads(source.spec):
        left, each = all_groups, size
    layers = []
    for index in range(len(source.spec.layers)):
        groups = sorted((index + offset) % all_groups for offset in range(left))
        heads = [group * size + (index + group + offset) % size for group in groups for offset in range(each)]
        layers.append(LayerPlan(size, tuple(groups), tuple(sorted(heads)), tuple(range(index, index + 48))))
    return plan_of(source, layers, compensation, layout="uniform", **values)


def micro_plan(source: Source, compensation: Compensation, **values: Any) -> Plan:
    """The first layer stays whole, the second loses heads, a KV group and neurons, the last one heads only."""
    own = source.spec.layers[0]
    layers = (
        layer_plan(own, None, None, range(80)),
        layer_plan(own, 0, 0, range(1, 80, 3)),
        layer_plan(own, None if own.heads_per_group > 1 else 4, 1, range(80)),
    )
    return plan_of(source, layers, compensation, **values)
