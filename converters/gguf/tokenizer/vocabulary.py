"""The tokenizer of a model folder as the metadata of a GGUF file.

llama.cpp has its own code for each kind of tokenizer and names rules for splitting text, so only tokenizers of known
kinds can be written. What is written is read back with this package's own reader, and the tokenizer that comes out
must give the same ids for texts of many scripts: a wrong rule gives ids that look right but are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from converters.gguf.metadata import Metadata
from converters.gguf.tokenizer.special import special_metadata
from converters.gguf.tokenizer.tokens import Tokens, refuse
from seap_export.common.json_file import read_json
from seap_export.errors import InputError, in_one_line
from seap_export.model.families import ModelSpec
from seap_export.model.sources.gguf.tokenizers import split_rules, tokenizer_of

_SPACE = "\u2581"  # sentencepiece's symbol for a space
#: Texts that rules for splitting treat differently.
_PROBES = (
    "Hello, world! It's 12345 o'clock; they've  gone.\n\n\tNext   line",
    " leading and trailing  ",
    "3.14159 1e-9 0x7F",
    "don't DON'T we'll WE'LL x'y",
    "naïve café Straße Ωμέγα Привет, мир! שלום مرحبا नमस्ते",
    "你好,世界!こんにちは 안녕하세요",
    "a\r\nb\rc\n \n  d",
    "😀👍🏽 emoji 🇩🇪",
    "def f(x):\n    return x**2  # square\n",
    "<tag attr='1'/> {json: [1, 2]} \\n",
    "ÅÇ e\u0301",
    "www.example.com/path?q=1&r=2 user@mail.org",
    "١٢٣ 四五六 Ⅷ ½",
    "CamelCase snake_case kebab-case UPPER",
    "\u00a0nbsp\u200bzero",
)


def tokenizer_metadata(folder: Path, spec: ModelSpec) -> Metadata:
    """The metadata of the tokenizer in a model folder: tokens, rule, special tokens and chat template."""
    path = folder / "tokenizer.json"
    given = read_json(path)
    loaded = _loaded(given)
    tokens = Tokens.of(given, spec.vocab_size)
    make = _sentencepiece_metadata if given["model"].get("byte_fallback") else _byte_level_metadata
    metadata = {**make(given, tokens), **special_metadata(folder, given, tokens)}
    _compare(loaded, tokenizer_of(path, metadata, spec.family))
    return metadata


def _loaded(tokenizer: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps({**tokenizer, "truncation": None, "padding": None}, ensure_ascii=False))
    except Exception as error:  # of no other class
        raise InputError(f"the tokenizer cannot be loaded ({in_one_line(error)}); download it again") from error


def _sentencepiece_metadata(tokenizer: Mapping[str, Any], tokens: Tokens) -> Metadata:
    """The metadata of a SentencePiece BPE with byte fallback: tokens, scores and how spaces are treated.

    The score of a token is minus the rank of the first merge that makes it; other tokens rank last. Whether this
    orders all merges is left to the comparison below.
    """
    scores: dict[str, float] = {}
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(first + second, -float(rank))
    last = -float(len(tokenizer["model"]["merges"]))
    unknown = tokenizer["model"].get("unk_token")
    ranked = [scores.get(text, last - index) for index, text in enumerate(tokens.texts)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens.texts,
        "tokenizer.ggml.scores": ranked,
        "tokenizer.ggml.token_type": tokens.kinds,
        "tokenizer.ggml.add_space_prefix": _adds_space(tokenizer),
        **({"tokenizer.ggml.unknown_token_id": tokens.ids[unknown]} if unknown in tokens.ids else {}),
    }


def _adds_space(tokenizer: Mapping[str, Any]) -> bool:
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = (normalizer or {}).get("normalizers") or [normalizer]
    kinds = [(step or {}).get("type") for step in steps]
    if splitter is not None and splitter.get("type") == "Metaspace" and normalizer is None and not splitter["split"]:
        return bool(splitter.get("prepend_scheme", "always") != "never")
    if kinds in (["Prepend", "Replace"], ["Replace"]) and (steps[-1] or {}).get("content") == _SPACE:
        return len(kinds) == 2
    raise refuse("llama.cpp treats spaces otherwise")


def _byte_level_metadata(tokenizer: Mapping[str, Any], tokens: Tokens) -> Metadata:
    """The metadata of a byte-level BPE: tokens, merges and the name of the rule by which it splits text."""
    model, wanted = tokenizer["model"], _compared(tokenizer)
    name = next((name for name, given in split_rules().items() if _compared(given) == wanted), None)
    if name is None:
        raise refuse("llama.cpp has no name for the rule by which it splits text")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens.texts,
        "tokenizer.ggml.token_type": tokens.kinds,
        "tokenizer.ggml.merges": merges,
    }


def _compared(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parts of a tokenizer.json that define its rule for splitting text, in a form that can be compared."""
    return (
        tuple(_steps(given.get("pre_tokenizer"))),
        tuple(_steps(given.get("normalizer"))),
        bool(given["model"].get("ignore_merges")),
    )


def _steps(given: Mapping[str, Any] | None) -> Iterator[tuple[tuple[str, str], ...]]:
    """Flattens pre-tokenizers or normalizers into their steps, in order, without settings that have no effect."""
    if given is None:
        return
    for inner in given.get("pretokenizers") or given.get("normalizers") or ():
        yield from _steps(inner)
    if given["type"] != "Sequence":
        yield tuple(sorted((key, str(value)) for key, value in given.items() if key not in ("trim_offsets", "invert")))


def _compare(before: Tokenizer, after: Tokenizer) -> None:
    """Refuses a tokenizer that gives other ids for the probes than it does after it is read back from the metadata."""
    for probe in _PROBES:
        for special in (True, False):
            ids = before.encode(probe, add_special_tokens=special).ids
            if ids != after.encode(probe, add_special_tokens=special).ids:
                raise refuse(f"llama.cpp would give other ids for {probe!r:.40}")
