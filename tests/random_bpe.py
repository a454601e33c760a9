"""Tokenizers with random merges, in which a token may be made in several ways and merges compete."""

from __future__ import annotations

import json
import random
from typing import Any

LETTERS = "abcd"
#: How words of `LETTERS` are cut: into bytes, into characters that fall back to bytes, or into words as a whole first.
KINDS = ("bytes", "fallback", "whole words")


def random_tokenizer(seed: int, kind: str, merges: int = 60) -> dict[str, Any]:
    """The content of a tokenizer.json; equal arguments give equal ones.

    A token may be made in several ways, and some merges are out of order: before those that make their parts.
    """
    chance = random.Random(seed)
    letters = list(LETTERS)
    pairs = _random_merges(chance, merges)
    found = list(dict.fromkeys([*letters, *("".join(pair) for pair in pairs)]))
    for _ in range(len(pairs) // 6):
        one, other = chance.randrange(len(pairs)), chance.randrange(len(pairs))
        pairs[one], pairs[other] = pairs[other], pairs[one]
    for text in found:
        for cut in range(1, len(text)):
            pair = text[:cut], text[cut:]
            if pair not in pairs and {*pair} <= {*found} and chance.random() < 0.2:
                pairs.insert(chance.randrange(len(pairs)), pair)
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    single = [*bytes_, "\u2581"] if kind == "fallback" else _other_bytes(letters)
    vocabulary = ["<s>", "<unk>", *single, *found]
    falls_back = {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True} if kind == "fallback" else {}
    model = {
        "type": "BPE",
        "vocab": {text: index for index, text in enumerate(vocabulary)},
        "merges": [list(pair) for pair in pairs],
        "ignore_merges": kind == "whole words",
        **falls_back,
    }
    special = {"id": 0, "content": "<s>", "special": True, "normalized": False}
    added = {**special, **dict.fromkeys(("single_word", "lstrip", "rstrip"), False)}
    return {"version": "1.0", "added_tokens": [added], "model": model, **_PARTS["fallback" if falls_back else "bytes"]}


def _random_merges(chance: random.Random, number: int) -> list[tuple[str, str]]:
    """Merges as a training finds them in random words, but of pairs taken at random and not by their number."""
    words = [[chance.choice(LETTERS) for _ in range(chance.randint(2, 12))] for _ in range(400)]
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < number:
        word = chance.choice([word for word in words if len(word) > 1])
        place = chance.randrange(len(word) - 1)
        pair = (word[place], word[place + 1])
        pairs[pair] = None
        for own in words:
            for at in range(len(own) - 1, 0, -1):
                if (own[at - 1], own[at]) == pair and at < len(own):
                    own[at - 1 : at + 1] = ["".join(pair)]
    return list(pairs)


def _other_bytes(letters: list[str]) -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(letters))


_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BACK = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_PARTS: dict[str, dict[str, Any]] = {
    "bytes": {"normalizer": None, "pre_tokenizer": _LEVEL, "post_processor": None, "decoder": _LEVEL},
    "fallback": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _BACK},
    },
}


def random_texts(seed: int, number: int) -> list[str]:
    """Words of `LETTERS` of up to 12 letters, and now and then a character that no merge knows."""
    chance = random.Random(seed)

    def word() -> str:
        return "".join(chance.choices(LETTERS, k=chance.randint(1, 12)))

    others = ("\u00e9", "x", "\u4e2d", "\n", "0")
    return [
        " ".join(word() + (chance.choice(others) if chance.random() < 0.1 else "") for _ in range(6))
        for _ in range(number)
    ]


def as_text(tokenizer: dict[str, Any]) -> str:
    """What the tokenizers library reads."""
    return json.dumps(tokenizer)
