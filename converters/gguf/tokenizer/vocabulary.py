"""The tokenizer of a model folder as the metadata of a GGUF file.

llama.cpp has its own code for each kind of tokenizer and names rules for splitting text, so only tokenizers of known
kinds can be written. What is written is read back with this package's own reader, and the tokenizer that comes out
must give the same ids for texts of many scripts: a wrong rule gives ids that look right but are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from converters.gguf.metadata import Metadata
from converters.gguf.tokenizer.byte_level import byte_level_metadata
from converters.gguf.tokenizer.sentencepiece import sentencepiece_metadata
from converters.gguf.tokenizer.special import special_metadata
from converters.gguf.tokenizer.tokens import Tokens
from seap_export.errors import InputError
from seap_export.families import ModelSpec
from seap_export.json_file import read_json
from seap_export.sources.gguf.tokenizers import tokenizer_of

__all__ = ["tokenizer_metadata"]

_REMEDY = "use another format"
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
    """The metadata of the tokenizer in a model folder: tokens, rule, special tokens and chat template.

    Args:
        folder: tokenizer.json, tokenizer_config.json, config.json and perhaps generation_config.json.
        spec: The model.

    Raises:
        InputError: The tokenizer is missing or damaged, or of a kind that GGUF files cannot hold.
    """
    path = folder / "tokenizer.json"
    given = read_json(path)
    tokens = Tokens.of(given, spec.vocab_size, path)
    make = sentencepiece_metadata if given["model"].get("byte_fallback") else byte_level_metadata
    found = {**make(given, tokens, path), **special_metadata(folder, given, tokens)}
    _check(json.dumps(given, ensure_ascii=False), found, spec, path)
    return found


def _check(given: str, metadata: Mapping[str, Any], spec: ModelSpec, path: Path) -> None:
    """The tokenizer that is read from the metadata must give the ids of the one that was given."""
    before, after = Tokenizer.from_str(given), tokenizer_of(path, metadata, spec.family)
    for probe in _PROBES:
        for special in (True, False):
            ids = before.encode(probe, add_special_tokens=special).ids
            if ids != after.encode(probe, add_special_tokens=special).ids:
                raise InputError(
                    f"{path}: as a GGUF file, the tokenizer would give other ids for {probe!r:.40}; {_REMEDY}"
                )
