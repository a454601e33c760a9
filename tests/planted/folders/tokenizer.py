"""Tokenizers and chat templates that were lost, changed, or are no longer those of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from planted.editing import Artifact
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json

_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_Edit = Callable[[dict[str, Any]], Any]


def _edit(name: str, change: _Edit, *parts: str) -> Change:
    """Edits a file of `onnx`, `hf` or both."""

    def plant(artifact: Artifact) -> None:
        for part in parts:
            edit_json(artifact.variant / part / name, change)

    return plant


def _vocabulary(change: Callable[[dict[str, int]], Any], *parts: str) -> Change:
    return _edit(_TOKENIZER, lambda values: change(values["model"]["vocab"]), *parts)


def _lose(vocabulary: dict[str, int]) -> None:
    del vocabulary["dog"]


def _swap(vocabulary: dict[str, int]) -> None:
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]


def _beyond(vocabulary: dict[str, int]) -> None:
    """An id that the model does not have."""
    vocabulary["the"] = 96


def _split_otherwise(values: dict[str, Any]) -> None:
    values["pre_tokenizer"] = {"type": "Whitespace"}


def _lower(values: dict[str, Any]) -> None:
    values["normalizer"] = {"type": "Lowercase"}


def _begins_with_bos(values: dict[str, Any]) -> None:
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }


def _no_template(config: dict[str, Any]) -> None:
    del config["chat_template"]


def _other_template(config: dict[str, Any]) -> None:
    config["chat_template"] = config["chat_template"].replace("content", "role")


def _other_end(config: dict[str, Any]) -> None:
    config["eos_token"] = "<pad>"


def _left(config: dict[str, Any]) -> None:
    config["padding_side"] = "left"


def _text(path: str, text: str) -> Change:
    return lambda artifact: (artifact.variant / path).write_text(text, "utf-8")


def _missing(path: str) -> Change:
    return lambda artifact: Path(artifact.variant / path).unlink()


FAULTS: tuple[Fault, ...] = (
    damage("tokenizer of onnx changed", "whole", _vocabulary(_swap, "onnx")),
    damage("tokenizer of hf missing", "tied", _missing("hf/tokenizer.json")),
    quiet("vocabulary of onnx lacks a word", "whole", _vocabulary(_lose, "onnx")),
    quiet("vocabulary of hf lacks a word", "whole", _vocabulary(_lose, "hf")),
    quiet("two ids of onnx swapped", "routed", _vocabulary(_swap, "onnx")),
    quiet("texts of onnx split otherwise", "tied", _edit(_TOKENIZER, _split_otherwise, "onnx")),
    quiet("texts of onnx in lower case", "standard", _edit(_TOKENIZER, _lower, "onnx")),
    quiet("texts of onnx begin otherwise", "qwen3", _edit(_TOKENIZER, _begins_with_bos, "onnx")),
    quiet("an id beyond the model", "whole", _vocabulary(_beyond, "onnx", "hf")),
    quiet("two ids of both swapped", "routed", _vocabulary(_swap, "onnx", "hf")),
    quiet("two ids of both swapped, without a router", "whole", _vocabulary(_swap, "onnx", "hf")),
    quiet("chat template of onnx lost", "whole", _edit(_CONFIG, _no_template, "onnx")),
    quiet("chat template of onnx changed", "int4", _edit(_CONFIG, _other_template, "onnx")),
    quiet("chat template of hf lost", "routed", _edit(_CONFIG, _no_template, "hf")),
    quiet("chat template of both lost", "routed", _edit(_CONFIG, _no_template, "onnx", "hf")),
    quiet("end of sequence of onnx changed", "whole", _edit(_CONFIG, _other_end, "onnx")),
    quiet("padding of onnx on the left", "whole", _edit(_CONFIG, _left, "onnx")),
    quiet("tokenizer of onnx no JSON", "window", _text("onnx/tokenizer.json", "{")),
    quiet("tokenizer of hf no tokenizer", "whole", _text("hf/tokenizer.json", '{"model": 1}')),
    quiet("tokenizer of onnx missing", "points", _missing("onnx/tokenizer.json")),
)
