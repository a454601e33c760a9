"""The importance matrix has the mean squares of what each matrix is multiplied with, under llama.cpp's names."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from benchmarks.frontier.programs.importance import collect, write
from transformers import AutoModelForCausalLM

TEXTS = [[5, 9, 3, 17], [40, 8]]


def test_sums_and_names(dense: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    sums = collect(model, TEXTS)
    layer = model.model.layers[0]
    with torch.inference_mode():
        inputs = torch.cat([layer.input_layernorm(model.model.embed_tokens(torch.tensor(ids))) for ids in TEXTS])
    squares, count = sums["model.layers.0.self_attn.k_proj"]
    assert count == 6
    torch.testing.assert_close(squares, inputs.double().square().sum(0))

    layers = model.config.num_hidden_layers
    write(tmp_path / "new" / "importance.gguf", sums, "llama", layers, len(TEXTS))
    reader = gguf.GGUFReader(tmp_path / "new" / "importance.gguf")
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    parts = ("in_sum2", "counts")
    assert tensors.keys() == {
        f"blk.{index}.{name}.weight.{part}" for index in range(layers) for name in matrices for part in parts
    }
    np.testing.assert_allclose(tensors["blk.0.attn_k.weight.in_sum2"].ravel(), squares.numpy(), rtol=1e-6)
    assert tensors["blk.1.ffn_down.weight.counts"].ravel().tolist() == [6.0]
    assert reader.fields["general.type"].contents() == "imatrix"
