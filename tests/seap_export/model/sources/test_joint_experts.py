"""Experts that a checkpoint stores together are the same as those that stand one by one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_weights
from support.models import write_micro_model
from support.variations import VARIATIONS

from seap_export.model.sources.open import open_source


def test_a_multimodal_checkpoint_with_joint_experts_is_the_same_model(tmp_path: Path) -> None:
    """As Qwen3.5 is published, with layers that predict further tokens."""
    source = open_source(str(write_micro_model(tmp_path / "text", **VARIATIONS["qwen3_5_moe"])))
    stored = load_file(tmp_path / "text" / "model.safetensors")
    joint = {"mtp.fc.weight": torch.ones(2)}
    for index in range(3):
        matrices = {
            name: torch.stack([stored.pop(f"model.layers.{index}.mlp.experts.{e}.{name}.weight") for e in range(4)])
            for name in ("gate_proj", "up_proj", "down_proj")
        }
        experts = f"model.language_model.layers.{index}.mlp.experts"
        joint[f"{experts}.gate_up_proj"] = torch.cat([matrices["gate_proj"], matrices["up_proj"]], 1)
        joint[f"{experts}.down_proj"] = matrices["down_proj"]
    joint |= {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in stored.items()}
    folder = write_micro_model(tmp_path / "wrapped", **VARIATIONS["qwen3_5_moe"])
    save_file(joint, folder / "model.safetensors")
    inner = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe", "text_config": inner}), "utf-8")
    wrapped = open_source(str(folder))
    assert wrapped.spec == source.spec
    assert wrapped.reader.shapes() == source.reader.shapes()
    for index in range(3):
        ours, theirs = wrapped.read_layer(index), source.read_layer(index)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "model", **VARIATIONS["qwen3_next"])
    before = open_source(str(folder)).reader.shapes()
    further = {"mtp.layers.0.mlp.experts.0.up_proj.weight": torch.ones(2)}
    edit_weights(folder, lambda tensors: tensors.update(further))
    assert open_source(str(folder)).reader.shapes() == before
