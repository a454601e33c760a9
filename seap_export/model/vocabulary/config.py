"""Renumbers token ids in a model's config.json, generation_config.json and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seap_export.model.vocabulary.table import Vocabulary

#: Keys that hold token ids besides those that end in the first of these.
_SUFFIXES = ("_token_id", "_token_index")
#: The number of tokens: that of the embedding, and that of inputs of layers.
_SIZES = ("vocab_size", "vocab_size_per_layer_input")


def named_tokens(*configs: Mapping[str, Any] | None) -> frozenset[int]:
    """The token ids that some configs name; -1 means none."""
    return frozenset(
        token
        for config in configs
        for key, value in (config or {}).items()
        if key.endswith(_SUFFIXES)
        for token in _flat(value)
        if token >= 0
    )


def renumbered_config(config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """A config.json or generation_config.json with new token ids, and a new number of tokens where it has one."""
    new = vocabulary.new_ids
    values = dict(config)
    for key, value in config.items():
        if key in _SIZES:
            values[key] = len(vocabulary)
        elif key.endswith(_SUFFIXES):
            values[key] = _mapped(value, {-1: -1, **new})
    return values


def renumbered_tokenizer_config(config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """A tokenizer_config.json with new token ids."""
    decoder = config.get("added_tokens_decoder")
    if not decoder:
        return dict(config)
    new = vocabulary.new_ids
    entries = {str(new[int(token)]): entry for token, entry in decoder.items()}
    return {**config, "added_tokens_decoder": entries}


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    elif type(value) is int:
        yield value


def _mapped(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [_mapped(item, new) for item in value]
    return new[value] if type(value) is int else value
