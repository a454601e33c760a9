"""Faults that are planted in a folder for transformers.js."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.editing import edit_json, edit_tensor

Edit = Callable[[Any], None]
_LAYER = "model.layers.0"
_QKV = f"{_LAYER}.self_attn.qkv_proj"


def _tensor(name: str, edit: Callable[[NDArray[Any]], Any]) -> Edit:
    return lambda model: edit_tensor(model.graph, name, edit)


def _graph(edit: Callable[[onnx.GraphProto], object]) -> Edit:
    def plant(model: Any) -> None:
        proto = onnx.load(model.graph, load_external_data=False)
        edit(proto.graph)
        model.graph.write_bytes(proto.SerializeToString())

    return plant


def _json(file: str, edit: Callable[[dict[str, Any]], Any]) -> Edit:
    return lambda model: edit_json(model.folder / file, edit)


def _bytes(data: bool, edit: Callable[[bytes], bytes]) -> Edit:
    def plant(model: Any) -> None:
        path: Path = model.data if data else model.graph
        path.write_bytes(edit(path.read_bytes()))

    return plant


def _swap_keys_and_values(values: NDArray[Any]) -> None:
    """[96, (3 + 3 + 3) * 16]: queries, keys, values."""
    values[:, 48:96], values[:, 96:] = values[:, 96:].copy(), values[:, 48:96].copy()


def _other_location(graph: onnx.GraphProto) -> None:
    """Data in a file of ONNX Runtime's usual name, which transformers.js does not load."""
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "model.onnx.data"


def _without_kept(graph: onnx.GraphProto) -> None:
    graph.input.remove(next(item for item in graph.input if item.name == "num_logits_to_keep"))


def _other_heads(graph: onnx.GraphProto) -> None:
    """Layer 0 has 3 KV heads."""
    item = next(item for item in graph.input if item.name == "past_key_values.0.key")
    item.type.tensor_type.shape.dim[1].dim_value = 1


def _other_input(node: str, index: int, value: str) -> Edit:
    def edit(graph: onnx.GraphProto) -> None:
        target = next(item for item in graph.node if item.name == node)
        target.input[index] = value

    return _graph(edit)


def _without_refit(graph: onnx.GraphProto) -> None:
    """The refit's bias of o_proj is the last input of the norm after attention."""
    node = next(node for node in graph.node if node.input[-1].endswith("o_proj.bias"))
    del node.input[-1]


def _more_data_files(config: dict[str, Any]) -> None:
    config["transformers.js_config"].update(use_external_data_format=2)


_NAMED, _O = f"{_QKV}.weight.transposed", f"{_LAYER}.self_attn.o_proj"
_DOWN = f"{_LAYER}.mlp.down_proj.weight.transposed"
_WRITTEN_OTHERWISE: list[tuple[str, Edit, str]] = [
    ("keys and values swapped", _tensor(_NAMED, _swap_keys_and_values), "k_proj"),
    ("rows in another order", _tensor(_DOWN, lambda v: v.__setitem__(..., v[::-1].copy())), "down"),
    ("bias of qkv is zero", _tensor(f"{_QKV}.bias", lambda v: v.fill(0)), "q_proj.bias"),
    ("bias of the refit is zero", _tensor(f"{_O}.bias", lambda v: v.fill(0)), "o_proj"),
    ("one number", _tensor("model.embed_tokens.weight", lambda v: v.__setitem__((7, 7), 9)), "embed"),
    ("NaN", _tensor("model.norm.weight", lambda v: v.__setitem__(3, np.nan)), "norm.weight"),
    ("rope of another base", _tensor("cos_cache", lambda v: np.square(v, out=v)), "model.onnx"),
]
_CONFIG, _GENERATION, _TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
_DAMAGED: list[tuple[str, Edit, str]] = [
    ("data end early", _bytes(True, lambda content: content[:-512]), "bytes and not"),
    ("data are missing", lambda model: model.data.unlink(), "onnx_data: missing"),
    ("graph ends early", _bytes(False, lambda content: content[:-900]), "onnx"),
    ("graph is missing", lambda model: model.graph.unlink(), "no such file"),
    ("data of another name", _graph(_other_location), "model.onnx"),
    ("no input for kept logits", _graph(_without_kept), "model.onnx"),
    ("cache of another shape", _graph(_other_heads), "model.onnx"),
    ("too few layers", _json(_CONFIG, lambda v: v.update(num_hidden_layers=2)), "num_hidden_layers"),
    ("unknown model type", _json(_CONFIG, lambda v: v.update(model_type="seap_llama")), "model_type"),
    ("another precision", _json(_CONFIG, lambda v: v.pop("transformers.js_config")), "js_config"),
    ("wrong EOS", _json(_GENERATION, lambda v: v.update(eos_token_id=5)), "eos_token_id"),
    ("EOS is null", _json(_GENERATION, lambda v: v.update(eos_token_id=None)), "eos_token_id"),
    ("other tokens", _json("tokenizer.json", lambda v: v["model"]["vocab"].update(cat=5, a=6)), "tokenizer.json"),
    ("BOS is added", _json(_TOKENIZER, lambda v: v.update(add_bos_token=True)), "add_bos_token"),
    ("no tokenizer", lambda model: (model.folder / "tokenizer.json").unlink(), "tokenizer.json"),
    ("config is no JSON", lambda model: (model.folder / _CONFIG).write_text("{", "utf-8"), "config.json"),
    ("code of a stranger", _json(_CONFIG, lambda v: v.update(auto_map={"AutoModel": "x.y"})), "auto_map"),
    ("more data files", _json(_CONFIG, _more_data_files), "use_external_data_format"),
    ("sampling", _json(_GENERATION, lambda v: v.update(do_sample=True)), "do_sample"),
    ("another chat template", _json(_TOKENIZER, lambda v: v.update(chat_template="{{ 1 }}")), "chat_template"),
    ("padding on the left", _json(_TOKENIZER, lambda v: v.update(padding_side="left")), "padding"),
    # What the runtime computes is another result, too.
    ("refit's bias is not added", _graph(_without_refit), "model.onnx"),
    ("gate for up", _other_input("layers.2.mlp.gated", 1, "layers.2.mlp.gate_proj.bias_add.output"), "model.onnx"),
    ("cache of another layer", _other_input("layers.2.self_attn.attention", 3, "past_key_values.0.key"), "model.onnx"),
    ("logits of the last", _other_input("num_logits_to_keep.tokens.node", 1, "num_logits_to_keep.flat"), "model.onnx"),
]
#: Of a pruned fp32 model with biases: name, edit, and a word of what is said.
FAULTS: list[tuple[str, Edit, str]] = [*_WRITTEN_OTHERWISE, *_DAMAGED]
_SCALES, _PACKED = f"{_QKV}.weight.scales", f"{_QKV}.weight.packed"
QUANTISED: list[tuple[str, Edit, str]] = [
    ("one scale", _tensor(_SCALES, lambda v: v.__setitem__((5, 1), v[5, 1] * 1.5)), "row 5"),
    ("one byte", _tensor(_PACKED, lambda v: v.__setitem__((9, 0, 0), v[9, 0, 0] ^ 0x88)), "row 9"),
    ("scale is infinite", _tensor(_SCALES, lambda v: v.__setitem__((0, 0), np.inf)), "row 0"),
]
