"""Cuts a tokenizer.json down to the tokens that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seap_export.model.vocabulary.table import Vocabulary


def fixed_tokens(tokenizer: Mapping[str, Any]) -> frozenset[int]:
    """The tokens that a tokenizer.json names outside its vocabulary: added, for padding, of the post-processor."""
    padding = tokenizer.get("padding")
    return frozenset(
        [
            *(entry["id"] for entry in tokenizer.get("added_tokens") or []),
            *([padding["pad_id"]] if padding else []),
            *_added_by(tokenizer.get("post_processor")),
        ]
    )


def cut_tokenizer(tokenizer: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of a tokenizer.json, with the kept tokens under their new ids and the merges among them.

    Normalizer, pre-tokenizer and decoder stay as they are. All added tokens are kept, and so is whatever the
    post-processor adds.
    """
    new, model = vocabulary.new_ids, dict(tokenizer["model"])
    texts = {text for text, token in model["vocab"].items() if token in new}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    cut_merges = [
        merge for merge, pair in zip(model["merges"], merges, strict=True) if texts.issuperset((*pair, "".join(pair)))
    ]
    model |= {
        "vocab": {text: new[token] for text, token in model["vocab"].items() if text in texts},
        "merges": cut_merges,
    }
    added = [{**entry, "id": new[entry["id"]]} for entry in tokenizer.get("added_tokens") or []]
    padding = tokenizer.get("padding")
    return {
        **tokenizer,
        "model": model,
        "added_tokens": added,
        "post_processor": _renumbered(tokenizer.get("post_processor"), new),
        **({"padding": {**padding, "pad_id": new[padding["pad_id"]]}} if padding else {}),
    }


def _added_by(processor: Any) -> Iterator[int]:
    """The ids of the tokens that a post-processor adds."""
    if isinstance(processor, dict):
        for entry in processor.get("processors") or ():
            yield from _added_by(entry)
        for entry in (processor.get("special_tokens") or {}).values():
            yield from entry["ids"]
        yield from (processor[key][1] for key in ("sep", "cls") if key in processor)


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor that adds the same tokens under their new ids."""
    if not isinstance(processor, dict):
        return processor
    kind = processor.get("type")
    if kind == "Sequence":
        return {**processor, "processors": [_renumbered(entry, new) for entry in processor["processors"]]}
    if kind == "TemplateProcessing":
        special_tokens = {
            name: {**entry, "ids": [new[token] for token in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": special_tokens}
    if kind in ("BertProcessing", "RobertaProcessing"):
        return {**processor, **{key: [processor[key][0], new[processor[key][1]]] for key in ("sep", "cls")}}
    return processor
