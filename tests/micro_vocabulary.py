"""Tokenizers for micro models that GGUF files can hold: byte-level, and as SentencePiece makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from micro import WORDS
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

SPECIAL = ("<pad>", "<s>", "</s>")


def pairs_of_words(start: str) -> dict[str, tuple[str, str]]:
    """What merges give each of `WORDS` after `start`: the pair that makes each token."""
    pairs: dict[str, tuple[str, str]] = {}
    for word in WORDS:
        known = start
        for letter in word:
            pairs.setdefault(known + letter, (known, letter))
            known += letter
    return pairs


def write_byte_level(folder: Path, **config: Any) -> None:
    """A byte-level tokenizer with a token for each of `WORDS` after a space, split as GPT-2's."""
    pairs = pairs_of_words("\u0120")
    letters = sorted({letter for pair in pairs.values() for letter in pair if len(letter) == 1} | {"\u0120"})
    ids = {token: index for index, token in enumerate((*SPECIAL, *letters, *pairs))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=list(pairs.values())))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    _finish(folder, tokenizer, config)


def write_sentencepiece(folder: Path, **config: Any) -> None:
    """A tokenizer with byte tokens, whose spaces are letters, and which adds BOS."""
    pairs = pairs_of_words("\u2581")
    letters = sorted({letter for pair in pairs.values() for letter in pair if len(letter) == 1})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", *SPECIAL[1:], *bytes_, *letters, *pairs]
    model = BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(pairs.values()),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    _finish(folder, tokenizer, {"unk_token": "<unk>", "pad_token": None, **config})


def _finish(folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    known = [token for token in SPECIAL if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in known])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "chat_template": "{{ messages }}", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
