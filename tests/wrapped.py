"""A micro Gemma 3 in a multimodal checkpoint with a tiny vision tower, as transformers' own class makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from micro import micro_config, write_micro_tokenizer
from safetensors.torch import load_file, save_file

#: What the language model's tensors start with, in place of `model.`, and its LM head: of transformers 5 and before.
SPELLINGS = {
    "newer": ("model.language_model.", "lm_head.weight", "model."),
    "older": ("language_model.model.", "language_model.lm_head.weight", ""),
}


def write_wrapped_model(folder: Path, text: Path, spelling: str, **values: Any) -> Path:
    """The model of the folder `text` with a vision tower; `values` are for config.json."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    inner = micro_config(**json.loads((text / "config.json").read_text("utf-8")))
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(text_config=dict(inner), vision_config=vision, mm_tokens_per_image=4, image_token_index=7)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    prefix, head, outer = SPELLINGS[spelling]
    tensors = {}
    for name, tensor in model.state_dict().items():
        if "vision_tower" in name or "multi_modal_projector" in name:
            tensors[outer + name.removeprefix("model.")] = tensor
    for name, tensor in load_file(text / "model.safetensors").items():
        tensors[head if name == "lm_head.weight" else prefix + name.removeprefix("model.")] = tensor
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    written = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": inner,
        "vision_config": {"model_type": "siglip_vision_model", **vision},
        "mm_tokens_per_image": 4,
        "image_token_index": 7,
        "boi_token_index": 5,
        "eoi_token_index": 6,
        **{key: inner[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "dtype")},
        **values,
    }
    (folder / "config.json").write_text(json.dumps(written), "utf-8")
    (folder / "generation_config.json").write_text((text / "generation_config.json").read_text("utf-8"), "utf-8")
    write_micro_tokenizer(folder)
    return folder
