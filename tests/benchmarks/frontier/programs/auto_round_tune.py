"""Rounds a model by AutoRound on texts, into the file that it ships and into a folder that torch reads.

    python auto_round_tune.py MODEL_FOLDER TEXTS.json OUT_FOLDER 4 [ITERATIONS]

The number is that of bits; groups have 32 weights, and 50 iterations are AutoRound's light recipe. `OUT_FOLDER/stored`
has its own format, with what it does not round in 16 bits; OUT_FOLDER has the same levels in float32, beside the
model's own values of what is not rounded. AutoRound takes rows of one length alone, so that the texts are cut into
rows of 256 tokens. Needs auto-round, torch and transformers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

_ROW, _GROUP, _BATCH, _LIGHT = 256, 32, 8, 50
_WEIGHTS = "model.safetensors"


def rows(texts: list[list[int]], length: int = _ROW) -> torch.Tensor:
    """The tokens of all texts, int64 [rows, length]; those that fill no row are left out."""
    tokens = torch.tensor([token for ids in texts for token in ids])
    return tokens[: len(tokens) // length * length].view(-1, length)


def unpacked(dense: dict[str, torch.Tensor], rounded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights for torch, float32: the rounded ones, and the dense model's where nothing but the dtype changed."""
    return {
        name: value if torch.equal(value.to(rounded[name].dtype), rounded[name]) else rounded[name].float()
        for name, value in dense.items()
    }


def in_16_bits(path: Path) -> None:
    """Writes the float32 tensors of a file in float16, as they would come from a model that is stored in 16 bits."""
    tensors = load_file(path)
    halves = {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}
    save_file(halves, path, metadata={"format": "pt"})


def _main(folder: Path, texts: Path, out: Path, bits: int, iterations: int) -> None:
    from auto_round import AutoRound

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    given = rows(json.loads(texts.read_text("utf-8")))
    tuner = AutoRound(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
        scheme=f"W{bits}A16",
        group_size=_GROUP,
        iters=iterations,
        dataset=list(given.split(_BATCH)),
        nsamples=len(given),
        seqlen=_ROW,
        batch_size=_BATCH,
        device_map="cpu",
    )
    model, _ = tuner.quantize()
    out.mkdir(parents=True, exist_ok=True)
    save_file(unpacked(load_file(folder / _WEIGHTS), model.state_dict()), out / _WEIGHTS, metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, out / name)
    tuner.save_quantized(str(out / "stored"), format="auto_round")
    in_16_bits(out / "stored" / _WEIGHTS)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[4:]]
    _main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), given[0], given[1] if len(given) > 1 else _LIGHT)
