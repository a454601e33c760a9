"""SentencePiece BPE with byte fallback as the metadata of a GGUF file: scores stand for the order of merges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.gguf.metadata import Metadata
from converters.gguf.tokenizer.tokens import Tokens, refuse

__all__ = ["sentencepiece_metadata"]

_SPACE = "\u2581"  # sentencepiece's symbol for a space


def sentencepiece_metadata(tokenizer: Mapping[str, Any], tokens: Tokens, path: Path) -> Metadata:
    """Tokens, scores and how spaces are treated.

    The score of a token is minus the place of the first merge that makes it; other tokens rank last. Whether this
    orders all merges is left to the comparison of `vocabulary.py`.

    Raises:
        InputError: The tokenizer treats spaces in a way that llama.cpp does not.
    """
    scores: dict[str, float] = {}
    for place, merge in enumerate(tokenizer["model"]["merges"]):
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(first + second, -float(place))
    last = -float(len(tokenizer["model"]["merges"]))
    unknown = tokenizer["model"].get("unk_token")
    ranked = [scores.get(text, last - index) for index, text in enumerate(tokens.texts)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens.texts,
        "tokenizer.ggml.scores": ranked,
        "tokenizer.ggml.token_type": tokens.kinds,
        "tokenizer.ggml.add_space_prefix": _adds_space(tokenizer, path),
        **({"tokenizer.ggml.unknown_token_id": tokens.ids[unknown]} if unknown in tokens.ids else {}),
    }


def _adds_space(tokenizer: Mapping[str, Any], path: Path) -> bool:
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = (normalizer or {}).get("normalizers") or [normalizer]
    kinds = [(step or {}).get("type") for step in steps]
    if splitter is not None and splitter.get("type") == "Metaspace" and normalizer is None and not splitter["split"]:
        return bool(splitter.get("prepend_scheme", "always") != "never")
    if kinds in (["Prepend", "Replace"], ["Replace"]) and (steps[-1] or {}).get("content") == _SPACE:
        return len(kinds) == 2
    raise refuse(path, "llama.cpp treats spaces otherwise")
