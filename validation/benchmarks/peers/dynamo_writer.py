"""Writes transformers' model with `torch.onnx.export(dynamo=True)`; runs where seap_export is not installed.

    python dynamo_writer.py MODEL_FOLDER OUT_FOLDER

needs torch, transformers and onnxscript. Opset 23, a `DynamicCache` as past, named as other exporters name it:
past_key_values.{i}.key/.value, present.{i}.key/.value.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

__all__ = ["export_program", "past_names", "write_dynamo"]

_OPSET = 23


class _Decoder(torch.nn.Module):
    """The model with its cache as a list of tensors: a key and a value of each layer, [batch, heads, past, size]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # transformers 5.24 renames the argument and announces the end of the old name.
        is_new = "cache" in inspect.signature(type(model).forward).parameters
        self._argument = "cache" if is_new else "past_key_values"

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Logits of all positions, then the grown cache."""
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **{self._argument: cache}
        )
        return (output.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


def past_names(layers: int) -> list[str]:
    """Names of the cache inputs."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def export_program(model: Any) -> torch.export.ExportedProgram:
    """The traced model: batch, new tokens and past are of any size."""
    config = model.config
    # No traced size is 0 or 1, or equal to another: torch.export would take it for a constant, or both for one.
    batch, tokens, past = 2, 3, 5
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = torch.zeros(batch, config.num_key_value_heads, past, head_size)
    tensors = [cache.clone() for _ in past_names(config.num_hidden_layers)]
    rows, new, old = (torch.export.Dim(name) for name in ("batch", "sequence", "past_sequence"))
    arguments = (
        torch.ones(batch, tokens, dtype=torch.int64),
        torch.ones(batch, past + tokens, dtype=torch.int64),
        tensors,
    )
    shapes = {
        "input_ids": {0: rows, 1: new},
        "attention_mask": {0: rows, 1: torch.export.Dim.AUTO},  # past and new; torch.export finds that out
        "past": [{0: rows, 2: old} for _ in tensors],
    }
    with torch.no_grad():
        return torch.export.export(_Decoder(model).eval(), arguments, dynamic_shapes=shapes, strict=False)


def write_dynamo(folder: Path, out: Path) -> None:
    """Writes model.onnx and its data into `out`, which need not exist."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pasts = past_names(model.config.num_hidden_layers)
    out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        export_program(model),
        f=out / "model.onnx",
        dynamo=True,
        opset_version=_OPSET,
        input_names=["input_ids", "attention_mask", *pasts],
        output_names=["logits", *(name.replace("past_key_values", "present") for name in pasts)],
        external_data=True,
        verbose=False,
    )


if __name__ == "__main__":
    write_dynamo(Path(sys.argv[1]), Path(sys.argv[2]))
