"""Tokenizers and chat templates that were lost, changed, or are no longer those of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planted.editing import Artifact
from planted.fault import Change, Fault, quiet
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


def _swap(vocabulary: dict[str, int]) -> None:
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]


def _beyond(vocabulary: dict[str, int]) -> None:
    """An id that the model does not have."""
    vocabulary["the"] = 96


def _lower(values: dict[str, Any]) -> None:
    values["normalizer"] = {"type": "Lowercase"}


def _other_template(config: dict[str, Any]) -> None:
    config["chat_template"] = config["chat_template"].replace("content", "role")


FAULTS: tuple[Fault, ...] = (
    quiet("tokenizer", "two ids of onnx swapped", "rows", _vocabulary(_swap, "onnx")),
    quiet("tokenizer", "texts of onnx in lower case", "steps", _edit(_TOKENIZER, _lower, "onnx")),
    quiet("tokenizer", "an id beyond the model", "whole", _vocabulary(_beyond, "onnx", "hf")),
    quiet("tokenizer", "two ids of both swapped, without a router", "whole", _vocabulary(_swap, "onnx", "hf")),
    quiet("tokenizer", "chat template of onnx changed", "mixed", _edit(_CONFIG, _other_template, "onnx")),
)
