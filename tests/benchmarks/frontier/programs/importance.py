"""Writes an importance matrix for llama.cpp: the squared inputs of every matrix, summed over texts, column by column.

    python importance.py MODEL TEXTS.json OUT.gguf ARCHITECTURE

It has the sums that llama.cpp's own `llama-imatrix` collects, those of the layers' matrices, in the file that it
writes. MODEL is a folder of transformers, TEXTS.json has lists of token ids.

Source: https://github.com/ggml-org/llama.cpp, tools/imatrix/imatrix.cpp.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM


def collect(model: Any, texts: list[list[int]]) -> dict[str, tuple[torch.Tensor, int]]:
    """For each linear layer, by its name: the sums of its squared inputs, float64 [columns]; the number of tokens."""
    sums: dict[str, tuple[torch.Tensor, int]] = {}

    def add(name: str, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2).double()
        old, count = sums.get(name, (torch.zeros(rows.shape[1], dtype=torch.float64), 0))
        sums[name] = old + rows.square().sum(0), count + len(rows)

    hooks = [
        module.register_forward_pre_hook(partial(add, name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with torch.inference_mode():
        for ids in texts:
            model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return sums


def write(path: Path, sums: dict[str, tuple[torch.Tensor, int]], architecture: str, layers: int, texts: int) -> None:
    (kind,) = (number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, layers)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array(gguf.Keys.IMatrix.DATASETS, ["calibration texts"])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, texts)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, max(count for _, count in sums.values()) // texts)
    for name, (squares, count) in sums.items():
        tensor = names.get_name(name)
        if tensor is not None and tensor.startswith("blk."):
            writer.add_tensor(f"{tensor}.weight.in_sum2", squares.numpy().astype(np.float32)[None])
            writer.add_tensor(f"{tensor}.weight.counts", np.array([[count]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _main() -> None:
    folder, texts_file, out, architecture = sys.argv[1:]
    texts = json.loads(Path(texts_file).read_text("utf-8"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    write(Path(out), collect(model, texts), architecture, model.config.num_hidden_layers, len(texts))


if __name__ == "__main__":
    _main()
