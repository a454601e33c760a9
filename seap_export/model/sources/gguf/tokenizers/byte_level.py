"""Byte-level BPE (`tokenizer.ggml.model` is "gpt2"): text is split by a rule, and the bytes of each piece are merged.

A GGUF file holds only the name of the rule. Unknown names are rejected, because a wrong rule gives token ids that look
right but are not.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from seap_export.errors import InputError
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers.vocabulary import token_list, vocabulary


@dataclass(frozen=True)
class _Rule:
    """How text is split for a byte-level vocabulary; `byte_level.toml` explains the fields."""

    names: tuple[str, ...]
    splits: tuple[str, ...] = ()
    digits_apart: bool = False
    whole_words: bool = False
    composed: bool = False
    adds_bos: bool = False

    def __post_init__(self) -> None:
        if not self.names or isinstance(self.names, str) or isinstance(self.splits, str):
            raise ValueError(f"byte_level.toml: names and splits must be lists, and names not empty: {self.names}")

    def apply(self, tokenizer: Tokenizer) -> None:
        """Makes a tokenizer split text by this rule."""
        if self.composed:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = self.pre_tokenizer()

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.digits_apart:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps += [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in self.splits]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.splits))
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


@cache
def _rules() -> Mapping[str, _Rule]:
    tables = tomllib.loads(resources.files(__package__).joinpath("byte_level.toml").read_text("utf-8"))["rule"]
    rules = [_Rule(**table) for table in tables]
    return MappingProxyType({name: rule for rule in rules for name in rule.names})


def split_rules() -> Mapping[str, Mapping[str, Any]]:
    """The tokenizer.json of an empty vocabulary with each rule, by the first name of the rule."""
    contents = {}
    for name, rule in _rules().items():
        if name == rule.names[0]:
            tokenizer = Tokenizer(BPE(ignore_merges=rule.whole_words))
            rule.apply(tokenizer)
            contents[name] = json.loads(tokenizer.to_str())
    return MappingProxyType(contents)


def byte_level(file: GgufFile) -> tuple[Tokenizer, bool]:
    """The tokenizer without special tokens, and whether it adds BOS if the file does not say."""
    rule = _rule(file)
    merges = [tuple(merge.split(" ")) for merge in token_list(file, "merges", str)]
    if any(len(merge) != 2 for merge in merges):
        raise InputError(f"{file.path}: the tokenizer has a merge that is not a pair; download the file again")
    tokenizer = Tokenizer(BPE(vocab=vocabulary(file), merges=merges, ignore_merges=rule.whole_words))
    rule.apply(tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, rule.adds_bos


def _rule(file: GgufFile) -> _Rule:
    name = file.metadata.get("tokenizer.ggml.pre")
    supported = file.form.tokenizers or tuple(_rules())
    if name not in supported:
        raise InputError(
            f"{file.path}: pre-tokenizer {name!r} is not supported; supported for {file.form.architecture}: "
            f"{', '.join(supported)}; give the Hugging Face folder, or convert it again with a current llama.cpp"
        )
    return _rules()[name]
