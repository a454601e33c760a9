"""Writing the shrunk model as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from seap_export.activations.statistics import Calibration
from seap_export.errors import InputError
from seap_export.families import ModelSpec
from seap_export.families.family import PRUNED_PREFIX
from seap_export.plan.plan import Plan
from seap_export.shrink.layer import shrink_layer
from seap_export.sources.source import Source
from seap_export.sources.tensor_writer import SafetensorsWriter

__all__ = ["MODELING_FILES", "pruned_config", "write_shrunk_model"]

#: The code that travels with every artifact, for environments without this package.
MODELING_FILES = ("configuration_seap.py", "modeling_seap.py")


def write_shrunk_model(
    source: Source,
    plan: Plan,
    calibration: Calibration,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> None:
    """Writes safetensors, config, generation config, tokenizer and modelling code into `folder`, which exists.

    One layer of the dense model is in memory at a time.

    Raises:
        InputError: The plan or the statistics are of another model, or a weight is not finite.
    """
    for what, digest in (("plan", plan.source_sha256), ("calibration", calibration.record.source_sha256)):
        if digest != source.digest:
            raise InputError(f"the {what} was made from another model than '{source.name}'; make it again")
    if plan.task != calibration.record.task:
        raise InputError(f"the plan is for task '{plan.task}', the calibration of '{calibration.record.task}'")
    spec = plan.shrunk_spec(source.spec)
    _write_json(pruned_config(source, spec), folder / "config.json")
    if source.generation_config is not None:
        _write_json(dict(source.generation_config), folder / "generation_config.json")
    source.write_tokenizer(folder)
    for name in MODELING_FILES:
        with resources.as_file(resources.files("seap_export.modeling") / name) as file:
            shutil.copyfile(file, folder / name)
    with SafetensorsWriter(folder / "model.safetensors", spec.tensors(), source.reader.dtype) as writer:
        for name in ("embed_tokens", "norm", *(() if spec.tie_word_embeddings else ("lm_head",))):
            writer.write(spec.family.tensor(name), source.read_outer(name))
        for index, layer in enumerate(plan.layers):
            shrunk = shrink_layer(
                source.read_layer(index), source.spec, index, layer, plan.compensation, calibration.layer(index)
            )
            for name in spec.layer_tensors(index):
                writer.write(name, shrunk[name])
            on_layer(index)


def pruned_config(source: Source, spec: ModelSpec) -> dict[str, Any]:
    """The config.json of a shrunk model: the dense one, and what each layer has of its own."""
    family = spec.family
    stem = family.architecture.removesuffix("ForCausalLM")
    per_layer = {}
    for index, (own, dense) in enumerate(zip(spec.layers, source.spec.layers, strict=True)):
        values = {
            name: getattr(own, name)
            for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size")
            if getattr(own, name) != getattr(dense, name)
        }
        values |= {f"{name}_bias": True for name in ("o_proj", "down_proj") if name in own.biases - dense.biases}
        if values:
            per_layer[str(index)] = values
    return {
        **source.config,
        "architectures": [f"Seap{stem}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_seap.Seap{stem}Config",
            "AutoModelForCausalLM": f"modeling_seap.Seap{stem}ForCausalLM",
        },
        "model_type": PRUNED_PREFIX + family.model_type,
        "head_dim": spec.head_dim,
        "dtype": str(source.reader.dtype).removeprefix("torch."),
        "o_proj_bias": False,  # what a layer has unless per_layer_config says otherwise
        "down_proj_bias": False,
        "per_layer_config": per_layer,
    }


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
