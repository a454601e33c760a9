"""Byte-level BPE as the metadata of a GGUF file, with the name of the rule by which it splits text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converters.gguf.metadata import Metadata
from converters.gguf.tokenizer.tokens import Tokens, refuse
from seap_export.sources.gguf.tokenizers import split_rules

__all__ = ["byte_level_metadata"]


def byte_level_metadata(tokenizer: Mapping[str, Any], tokens: Tokens, path: Path) -> Metadata:
    """Tokens, merges and the name of the rule of a byte-level tokenizer.

    Raises:
        InputError: The rule is not known.
    """
    model, wanted = tokenizer["model"], _compared(tokenizer)
    name = next((name for name, given in split_rules().items() if _compared(given) == wanted), None)
    if name is None:
        raise refuse(path, "llama.cpp has no name for the rule by which it splits text")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens.texts,
        "tokenizer.ggml.token_type": tokens.kinds,
        "tokenizer.ggml.merges": merges,
    }


def _compared(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a tokenizer.json says of the rule."""
    return (
        tuple(_steps(given.get("pre_tokenizer"))),
        tuple(_steps(given.get("normalizer"))),
        bool(given["model"].get("ignore_merges")),
    )


def _steps(given: Mapping[str, Any] | None) -> Iterator[tuple[tuple[str, str], ...]]:
    """What splits or changes text, one after the other, without what changes nothing of it."""
    if given is None:
        return
    for inner in given.get("pretokenizers") or given.get("normalizers") or ():
        yield from _steps(inner)
    if given["type"] != "Sequence":
        yield tuple(sorted((key, str(value)) for key, value in given.items() if key not in ("trim_offsets", "invert")))
