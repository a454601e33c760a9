"""Checkpoints with experts in MXFP4 are read as transformers reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_weights, set_json
from support.models import skip_unless_loaded, write_micro_model
from support.product import open_source

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type
from seap_export.model.sources.mxfp4 import decoded

MATRICES = ("gate_up_proj", "down_proj")


def packed_model(folder: Path) -> Path:
    """A micro model whose experts are random blocks, with scales about those of weights."""
    write_micro_model(folder, dtype="bfloat16", model_type="gpt_oss")
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(MATRICES)]:
        experts, inputs, rows = tensors.pop(name).shape
        blocks = torch.randint(256, (experts, rows, inputs // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 126, blocks.shape[:3], generator=generator, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    set_json(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return folder


def test_every_number_at_every_scale_is_what_transformers_makes_of_it() -> None:
    skip_unless_loaded(family_of_model_type("gpt_oss"))
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 255, 1, 1)
    scales = torch.arange(255, dtype=torch.uint8)[None, :, None].repeat(2, 1, 16)
    expected = convert_moe_packed_tensors(blocks, scales)
    assert decoded(blocks, scales).view(torch.int16).equal(expected.view(torch.int16))


def test_a_model_with_packed_experts_is_the_one_that_they_stand_for_or_is_refused(tmp_path: Path) -> None:
    source = open_source(str(packed_model(tmp_path / "model")))
    assert source.dtype == torch.bfloat16
    assert "quantization_config" not in source.config
    stored = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = decoded(stored[f"{name}_blocks"], stored[f"{name}_scales"])
    gate, up = (
        source.read_layer(1)[f"model.layers.1.mlp.experts.{part}_proj.weight"].unflatten(0, (4, 64))
        for part in ("gate", "up")
    )
    assert torch.stack((gate, up), 2).flatten(1, 2).mT.equal(whole)
    for suffix in ("_blocks", "_scales"):
        folder = packed_model(tmp_path / suffix)
        edit_weights(
            folder, lambda tensors, suffix=suffix: tensors.pop(f"model.layers.0.mlp.experts.down_proj{suffix}")
        )
        with pytest.raises(InputError, match=r"'model.layers.0.mlp.experts.down_proj': .* MXFP4"):
            open_source(str(folder))
