"""Model folders that are damaged, contradict themselves, or are not what the graph was written from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from planted.editing import Artifact, flip_byte
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json, edit_weights

_WEIGHTS = "model.safetensors"
_LAYER = "model.layers.1."


def config(**values: Any) -> Change:
    return lambda artifact: edit_json(artifact.hf / "config.json", lambda config: config.update(values))


def _layer_config(layer: int, key: str, by: int) -> Change:
    """Another shape of one layer, in the config alone."""

    def change(config: dict[str, Any]) -> None:
        settings = config["per_layer_config"].setdefault(str(layer), {})
        settings[key] = settings.get(key, config[key]) + by

    return lambda artifact: edit_json(artifact.hf / "config.json", change)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    return lambda artifact: edit_weights(artifact.hf, change)


def _sign_of(name: str) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[flat.abs().argmax()] *= -1

    return tensors(change)


def _in_half(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.half()


def _heads_rolled(tensors: dict[str, torch.Tensor]) -> None:
    name = _LAYER + "self_attn.q_proj.weight"
    tensors[name] = tensors[name].roll(16, 0)


def _norm_scaled(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.post_attention_layernorm.weight"] *= 1.01


def _extra(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"] = tensors[_LAYER + "mlp.up_proj.weight"].clone()


def _not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.embed_tokens.weight"][93, 0] = float("nan")


def _cut(artifact: Artifact) -> None:
    path = artifact.hf / _WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(artifact: Artifact) -> None:
    flip_byte(artifact.hf / _WEIGHTS, 0.6)


def _code(artifact: Artifact) -> None:
    """The modelling code that others run with trust_remote_code."""
    path = artifact.hf / "modeling_seap.py"
    path.write_text(path.read_text("utf-8") + "\nprint('hello')\n", "utf-8")


def _text(name: str, text: str) -> Change:
    def change(artifact: Artifact) -> None:
        (artifact.hf / name).parent.mkdir(exist_ok=True)
        (artifact.hf / name).write_text(text, "utf-8")

    return change


def _list_lacks_the_code(artifact: Artifact) -> None:
    path = artifact.hf / "SHA256SUMS"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "modeling_seap.py" not in line), "utf-8")


def _missing(name: str) -> Change:
    return lambda artifact: (artifact.hf / name).unlink()


FAULTS: tuple[Fault, ...] = (
    damage("safetensors cut", "routed", _cut),
    damage("safetensors with another byte", "int4", _flip),
    damage("safetensors missing", "tied", _missing(_WEIGHTS)),
    damage("modelling code changed", "qwen3", _code),
    quiet("safetensors cut, recorded", "tied", _cut),
    quiet("tensor missing", "routed", tensors(lambda tensors: tensors.pop(_LAYER + "mlp.up_proj.weight"))),
    quiet("bias missing", "routed", tensors(lambda tensors: tensors.pop(_LAYER + "self_attn.q_proj.bias"))),
    quiet("tensor too many", "whole", tensors(_extra)),
    quiet("NaN in a rare token of the model", "routed", tensors(_not_finite), codes=(3, 7)),
    quiet("weights in another dtype", "routed", tensors(_in_half), codes=(3, 7)),
    quiet("sign in the model", "routed", _sign_of(_LAYER + "mlp.down_proj.weight"), codes=(3,), layer=1),
    quiet("sign in the model, int4", "int4", _sign_of(_LAYER + "self_attn.v_proj.weight"), codes=(3,), layer=1),
    quiet("heads of the model rolled", "whole", tensors(_heads_rolled), codes=(3,), layer=1),
    quiet("norm of the model off by 1 %", "routed", tensors(_norm_scaled), codes=(3,), layer=2),
    quiet("config: epsilon", "whole", config(rms_norm_eps=1e-3), codes=(3, 7), layer=0),
    quiet("config: rope theta", "routed", config(rope_theta=20000.0), codes=(3, 7), layer=0),
    quiet("config: rope scaling lost", "whole", config(rope_scaling=None), codes=(3, 7), layer=0),
    quiet("config: window", "standard", config(sliding_window=4), codes=(3, 7), layer=0),
    quiet("config: vocabulary", "routed", config(vocab_size=97)),
    quiet("config: heads of all layers", "standard", config(num_attention_heads=96)),
    quiet("config: neurons of a layer", "routed", _layer_config(1, "intermediate_size", 1)),
    quiet("config: KV heads of a layer", "qwen3", _layer_config(2, "num_attention_heads", 3)),
    quiet("config: tied", "routed", config(tie_word_embeddings=True), codes=(3, 7)),
    quiet("config: not tied", "tied", config(tie_word_embeddings=False), codes=(3, 7)),
    quiet("config: layers", "whole", config(num_hidden_layers=2)),
    quiet("config: positions", "whole", config(max_position_embeddings=256)),
    quiet("config: activation", "routed", config(hidden_act="mish")),
    quiet("config: no biases", "routed", config(attention_bias=False)),
    quiet("config: end of sequence", "tied", config(eos_token_id=5, bos_token_id=6)),
    quiet("config: no JSON", "whole", _text("config.json", "{")),
    quiet("config missing", "int4", _missing("config.json")),
    quiet(
        "generation config: end of sequence",
        "routed",
        lambda artifact: edit_json(
            artifact.hf / "generation_config.json", lambda values: values.update(eos_token_id=7)
        ),
    ),
    quiet("modelling code changed, recorded", "routed", _code),
    quiet("modelling code of one's own, recorded", "tied", _text("more.py", "print('hello')")),
    quiet("compiled code, recorded", "routed", _text("__pycache__/modeling_seap.cpython-311.pyc", "code")),
    quiet("pickled weights, recorded", "whole", _text("pytorch_model.bin", "pickled")),
    quiet("config: code on the hub", "tied", config(auto_map={"AutoConfig": "else/where--modeling_seap.SeapX"})),
    quiet("config: a kernel on the hub", "whole", config(attn_implementation="else/where")),
    damage("a file of secrets beside the model", "tied", _text(".env", "TOKEN=1")),
    damage("list of files without the code", "routed", _list_lacks_the_code),
    damage("list of files missing", "qwen3", _missing("SHA256SUMS")),
)
