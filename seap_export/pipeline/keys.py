"""The key of a step: the hash of everything it depends on, so that it is reused only for the same inputs.

A step's key contains the key of the step before it. Paths and settings that change only the speed are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources

from converters.form import OnnxForm
from seap_export.activations.statistics import CALIBRATION_SCHEMA
from seap_export.corpus import Split
from seap_export.hashing import sha256_json
from seap_export.pipeline.mixtures import MixtureSpec
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings
from seap_export.plan.plan import PLAN_SCHEMA
from seap_export.plan.recipes import PlanSettings
from seap_export.shrink.write import MODELING_FILES
from seap_export.sources.source import Source
from validation.report import SCHEMA as PARITY_SCHEMA

__all__ = ["calibration_key", "hf_key", "onnx_key", "parity_key", "plan_key", "quality_key"]

#: Increased when the same inputs give different bytes than before, so that older steps are not reused.
_CALIBRATION, _PLAN, _HF, _ONNX, _PARITY, _QUALITY = 1, 1, 1, 2, 3, 2


def calibration_key(source: Source, split: Split, settings: CalibrationSettings) -> str:
    """The key of a task's statistics."""
    held_out = [[sample.prompt, sample.completion] for sample in split.held_out]
    texts = split.digests()["calibration"]
    inputs = [source.digest, texts, held_out, settings.seed, settings.max_length]
    return sha256_json([CALIBRATION_SCHEMA, _CALIBRATION, *inputs])


def plan_key(
    statistics: Mapping[str, str], mixture: MixtureSpec, settings: PlanSettings, ratio: float, num_layers: int
) -> str:
    """The key of a variant's plan; the default protection gives the same key as the equal explicit one.

    Args:
        statistics: For each task the key of its statistics.
        mixture: The tasks of the variant, and their weights.
        settings: How the plan is made.
        ratio: Fraction to remove.
        num_layers: Layers of the model.
    """
    parts = [[task, weight, statistics[task]] for task, weight in mixture.weights.items()]
    values = asdict(settings) | {"sparsity": asdict(settings.sparsity.resolved(num_layers))}
    if not settings.group_tolerance:  # as in plan.json, which does not hold it either
        del values["group_tolerance"]
    return sha256_json([PLAN_SCHEMA, _PLAN, mixture.name, parts, values, ratio])


def hf_key(plan: str) -> str:
    """The key of a shrunk model, which includes the modelling code."""
    code = [(resources.files("seap_export.modeling") / name).read_text("utf-8") for name in MODELING_FILES]
    return sha256_json(["hf", _HF, plan, code])


def onnx_key(hf: str, form: OnnxForm) -> str:
    """The key of a converted model."""
    return sha256_json(["onnx", _ONNX, hf, form.to_json()])


def parity_key(onnx: str, settings: ParitySettings, prompts: Sequence[str]) -> str:
    """The key of a parity report."""
    limits = [list(limit) for limit in settings.limits.given]
    values = [settings.provider, settings.decode_steps, settings.long_tokens, limits, settings.threads]
    return sha256_json([PARITY_SCHEMA, _PARITY, onnx, values, list(prompts)])


def quality_key(onnx: str, max_length: int) -> str:
    """The key of a quality report; the variant's key stands for its held-out texts and its dense model, too."""
    return sha256_json(["quality", _QUALITY, onnx, max_length])
