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


def _not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.embed_tokens.weight"][93, 0] = float("nan")


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


FAULTS: tuple[Fault, ...] = (
    damage("file", "safetensors with another byte", "mixed", _flip),
    quiet("weight", "NaN in a rare token of the model", "routed", tensors(_not_finite), codes=(3, 7)),
    quiet(
        "weight", "sign in the model, int4", "int4", _sign_of(_LAYER + "self_attn.v_proj.weight"), codes=(3,), layer=1
    ),
    quiet("config", "config: neurons of a layer", "steps", _layer_config(1, "intermediate_size", 1)),
    quiet("config", "config: tied", "mixed", config(tie_word_embeddings=True), codes=(3, 7)),
    quiet(
        "config",
        "generation config: end of sequence",
        "rows",
        lambda artifact: edit_json(
            artifact.hf / "generation_config.json", lambda values: values.update(eos_token_id=7)
        ),
    ),
    quiet("code", "modelling code changed, recorded", "rows", _code),
    quiet("code", "code of one's own, recorded", "whole", _text("more.py", "print('hello')")),
    quiet("code", "pickled weights, recorded", "window", _text("pytorch_model.bin", "pickled")),
    quiet(
        "code", "config: code on the hub", "steps", config(auto_map={"AutoConfig": "else/where--modeling_seap.SeapX"})
    ),
    damage("file", "a file of secrets beside the model", "rows", _text(".env", "TOKEN=1")),
    damage("code", "list of files without the code", "mixed", _list_lacks_the_code),
)
