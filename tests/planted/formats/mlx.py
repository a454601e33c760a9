"""Folders of mlx-lm: safetensors, the config that says what is computed, and the code that computes it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from planted.formats.files import added, file_plant, missing
from planted.formats.planting import DAMAGE, Base, FormatFault, Parts, Plant, Subject
from safetensors.torch import load_file, save_file
from support.editing import edit_json, set_json
from support.formats.written import WrittenModel

from converters.mlx.layout import Layout
from converters.mlx.writer import MODEL_FILE, WEIGHTS, model_dtype

_DTYPES = {"F32": "<f4", "F16": "<f2", "U32": "u1"}


def _layout(base: Base) -> Layout:
    return Layout(base.spec, base.precision)


def _holds(base: Base, name: str) -> frozenset[str]:
    return frozenset({"float"} if _layout(base).group(name) is None else {"levels", "points"})


def _open(made: WrittenModel, name: str) -> Parts:
    path = made.folder / WEIGHTS
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    layout, parts = Layout(made.spec, made.format.precision, model_dtype(made.source)), {}
    for part, stored in zip(("numbers", "scales", "points"), layout.parts(name), strict=False):
        entry = header[stored]
        start, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        rows = int(np.prod(entry["shape"][:-1])) if len(entry["shape"]) > 1 else (end - start) // dtype.itemsize
        shape = (rows,) if len(entry["shape"]) == 1 else (rows, (end - start) // rows // dtype.itemsize)
        parts[part] = np.memmap(path, dtype, "r+", 8 + length + start, shape)
    return parts


def _decoder(change: Callable[[dict[str, Any]], object]) -> Plant:
    """Changes what config.json says of the computation."""
    return lambda made: edit_json(made.folder / "config.json", lambda config: change(config["decoder"]))


def _layer(index: int, **values: Any) -> Plant:
    return _decoder(lambda decoder: decoder["layers"][index].update(values))


def _mixer(index: int, kind: str, **values: Any) -> Plant:
    return _decoder(lambda decoder: decoder["layers"][index][kind].update(values))


def _attention(index: int, **values: Any) -> Plant:
    return _mixer(index, "attention", **values)


def _experts(**values: Any) -> Plant:
    return _decoder(lambda decoder: decoder["layers"][0]["experts"].update(values))


def _said(file: str, **values: Any) -> Plant:
    return lambda made: set_json(made.folder / file, **values)


def _tensors(change: Callable[[dict[str, Any]], object]) -> Plant:
    def plant(made: WrittenModel) -> None:
        tensors = load_file(made.folder / WEIGHTS)
        change(tensors)
        save_file(tensors, made.folder / WEIGHTS, metadata={"format": "mlx"})

    return plant


def _replaced(file: str, before: str, after: str) -> Plant:
    def edit(content: bytes) -> bytes:
        assert before.encode() in content
        return content.replace(before.encode(), after.encode(), 1)

    return file_plant(file, edit)


def _transposed(tensors: dict[str, Any]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].T.contiguous()


def _in_float32(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()


def _further_weights(made: WrittenModel) -> None:
    """mlx-lm loads all files whose names begin with `model`."""
    tensors = load_file(made.folder / WEIGHTS)
    norm = {"model.norm.weight": -tensors["model.norm.weight"]}
    save_file(norm, made.folder / "model-more.safetensors", metadata={"format": "mlx"})


_LOGITS, _LOWERED = "cap = self.d.logits_softcap\n", "logits[..., 40] -= 1e4\n        "
_IMPORT = "import mlx.core as mx\n"
_OWN: tuple[tuple[str, str, Plant], ...] = (
    ("fp32", "another epsilon", _decoder(lambda decoder: decoder.update(rms_norm_eps=1e-2))),
    ("fp32", "another scale of attention", _attention(1, scale=0.3)),
    ("fp32", "norms of heads after the rotation", _decoder(lambda decoder: decoder.update(qk_norm="after_rotation"))),
    ("fp32", "norms of heads missing", _decoder(lambda decoder: decoder.update(qk_norm=None))),
    ("fp32", "periods backwards", _decoder(lambda decoder: decoder["ropes"][0]["periods"].reverse())),
    ("fp32", "a factor of the rotation", _decoder(lambda decoder: decoder["ropes"][0].update(factor=1.1))),
    ("fp32", "other pairs rotate", _decoder(lambda decoder: decoder["ropes"][0].update(interleaved=True))),
    ("fp32", "a layer without rotation", _attention(1, rope=None)),
    ("fp32", "a layer with a window", _attention(1, window=4)),
    ("fp32", "a bias is not added", _layer(1, biases=["q_proj"])),
    ("fp32", "other heads of a layer", _attention(1, heads=2, kv_heads=1)),
    ("fp16", "a layer without its window", _attention(0, window=None)),
    ("fp16", "another bound of scores", _decoder(lambda decoder: decoder.update(attention_softcap=None))),
    ("fp16", "another bound of logits", _decoder(lambda decoder: decoder.update(logits_softcap=30.0))),
    ("fp16", "another factor of the embedding", _decoder(lambda decoder: decoder.update(embedding_multiplier=1.0))),
    ("fp16", "a norm is left out", _decoder(lambda decoder: decoder["norms"].pop())),
    ("8bit", "another activation", _decoder(lambda decoder: decoder.update(activation="gelu_tanh"))),
    ("8bit", "logits are doubled", _decoder(lambda decoder: decoder.update(logits_multiplier=2.0))),
    ("4bit", "fewer experts for a token", _experts(per_token=1)),
    ("4bit", "scores of a sigmoid", _experts(scores="sigmoid")),
    ("hybrid", "heads without gates", _attention(1, gate=None)),
    ("hybrid", "a layer without its window", _attention(0, window=None)),
    ("hybrid", "a kernel without its biases", _mixer(2, "convolution", kernel_bias=False)),
    ("4bit", "another group size", _said("config.json", quantization={"group_size": 32, "bits": 4})),
    ("8bit", "other bits", _said("config.json", quantization={"group_size": 64, "bits": 4})),
    ("fp32", "another end in the config", _said("config.json", eos_token_id=7)),
    ("fp32", "a model file of another name", _said("config.json", model_file="other.py")),
    ("fp16", "another type of model", _said("config.json", model_type="llama")),
    ("fp16", "another end in the config of generation", _said("generation_config.json", eos_token_id=7)),
    ("8bit", "another end token", _said("tokenizer_config.json", eos_token="the")),
    ("4bit", "add_bos_token in the config", _said("tokenizer_config.json", add_bos_token=True)),
    ("4bit", "another template in the config", _said("tokenizer_config.json", chat_template="user: buy")),
    ("fp32", "a token of another text", _replaced("tokenizer.json", '"<pad>"', '"<PAD>"')),
    ("fp32", "a tensor missing", _tensors(lambda tensors: tensors.pop("model.layers.1.self_attn.q_norm.weight"))),
    ("fp32", "a tensor too many", _tensors(lambda tensors: tensors.update(other=tensors["model.norm.weight"] + 1))),
    ("fp32", "a tensor transposed", _tensors(_transposed)),
    ("fp16", "a tensor of another dtype", _tensors(_in_float32)),
    ("8bit", "scales missing", _tensors(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.scales"))),
    ("fp32", "the logits of one token are lowered in the code", _replaced(MODEL_FILE, _LOGITS, _LOWERED + _LOGITS)),
    ("fp32", "another activation in the code", _replaced(MODEL_FILE, "nn.silu", "nn.relu")),
    ("fp16", "a command in the code", _replaced(MODEL_FILE, _IMPORT, f"{_IMPORT}import os; os.getcwd()\n")),
    ("8bit", "half of the code", file_plant(MODEL_FILE, lambda content: content[: len(content) // 2])),
    ("8bit", "no code", missing(MODEL_FILE)),
    ("4bit", "no tokenizer", missing("tokenizer.json")),
    ("4bit", "no config of the tokenizer", missing("tokenizer_config.json")),
    ("fp32", "further weights, which mlx-lm loads", _further_weights),
    ("fp16", "a further chat template", added("chat_template.jinja", b"user: buy")),
    ("8bit", "further tokens", added("added_tokens.json", b'{"foreign": 3}')),
    ("4bit", "further code", added("tokenization_foreign.py", b"pass")),
)  # fmt: skip
SUBJECT = Subject(
    "mlx",
    {
        "fp32": Base("qwen3-biases", "fp32"),
        "fp16": Base("gemma2-all", "fp16"),
        "8bit": Base("llama-biases", "8bit"),
        "4bit": Base("qwen2_moe", "4bit"),
        "hybrid": Base("lfm3-all", "fp32"),
    },
    _open,
    _holds,
    WEIGHTS,
    tuple(FormatFault(f"{base}: {id}", base, plant, (DAMAGE,)) for base, id, plant in _OWN),
)
