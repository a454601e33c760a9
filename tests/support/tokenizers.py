"""Tokenizers of micro models: word-level, byte-level, as SentencePiece makes them, and with random merges."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer

from support.corpora import WORDS
from support.editing import list_again, set_json

_TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"


def write_micro_tokenizer(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}
    inputs = ["input_ids", "attention_mask"]  # else transformers 4.57 adds one that `generate` refuses
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def name_all_tokens(onnx_folder: Path) -> Path:
    """Gives the tokens that `write_micro_tokenizer` leaves without a word the words w24, w25, ..."""
    path = onnx_folder / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    words = values["model"]["vocab"]
    words.update({f"w{token}": token for token in range(96) if token not in words.values()})
    path.write_text(json.dumps(values), "utf-8")
    return list_again(onnx_folder)


def add_chat_template(folder: Path) -> Path:
    """Gives a folder whose tokens are `WORDS` a template in which each turn is a word, the content, and `home`."""
    turns = "{{ 'cat ' if message.role == 'user' else 'dog ' }}{{ message.content }} home "
    path = folder / "tokenizer_config.json"
    template = f"{{% for message in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}dog{{% endif %}}"
    set_json(path, chat_template=template)
    return list_again(folder)


_SPECIAL = ("<pad>", "<s>", "</s>")


def pairs_of_words(start: str) -> dict[str, tuple[str, str]]:
    """What merges give each of `WORDS` after `start`: the pair that makes each token."""
    pairs: dict[str, tuple[str, str]] = {}
    for word in WORDS:
        known = start
        for letter in word:
            pairs.setdefault(known + letter, (known, letter))
            known += letter
    return pairs


def trained_byte_level(texts: Sequence[str], size: int, special: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE of texts, which has few merges."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": list(special), "show_progress": False}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, BpeTrainer(initial_alphabet=alphabet, **options))
    return tokenizer


def write_byte_level(folder: Path, **config: Any) -> None:
    """A byte-level tokenizer with a token for each of `WORDS` after a space, split as GPT-2's."""
    pairs = pairs_of_words("\u0120")
    letters = sorted({letter for pair in pairs.values() for letter in pair if len(letter) == 1} | {"\u0120"})
    ids = {token: index for index, token in enumerate((*_SPECIAL, *letters, *pairs))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=list(pairs.values())))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    _finish(folder, tokenizer, config)


def write_sentencepiece(folder: Path, **config: Any) -> None:
    """A tokenizer with byte tokens, whose spaces are letters, and which adds BOS."""
    pairs = pairs_of_words("\u2581")
    letters = sorted({letter for pair in pairs.values() for letter in pair if len(letter) == 1})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", *_SPECIAL[1:], *bytes_, *letters, *pairs]
    ids, unknown = {token: index for index, token in enumerate(tokens)}, {"unk_token": "<unk>", "fuse_unk": True}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=list(pairs.values()), byte_fallback=True, **unknown))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    _finish(folder, tokenizer, {"unk_token": "<unk>", "pad_token": None, **config})


def _finish(folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    known = [token for token in _SPECIAL if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in known])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "chat_template": _TEMPLATE, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


LETTERS = "abcd"
#: How words of `LETTERS` are cut: into bytes, into characters that fall back to bytes, or into words as a whole first.
BPE_KINDS = ("bytes", "fallback", "whole words")


def random_bpe(seed: int, kind: str, merges: int = 60) -> dict[str, Any]:
    """The content of a tokenizer.json; equal arguments give equal ones.

    A token may be made in several ways, and some merges are out of order: before those that make their parts.
    """
    chance = random.Random(seed)
    letters = list(LETTERS)
    pairs = _random_merges(chance, merges)
    pieces = list(dict.fromkeys([*letters, *("".join(pair) for pair in pairs)]))
    for _ in range(len(pairs) // 6):
        one, other = chance.randrange(len(pairs)), chance.randrange(len(pairs))
        pairs[one], pairs[other] = pairs[other], pairs[one]
    for text in pieces:
        for cut in range(1, len(text)):
            pair = text[:cut], text[cut:]
            if pair not in pairs and {*pair} <= {*pieces} and chance.random() < 0.2:
                pairs.insert(chance.randrange(len(pairs)), pair)
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    single = [*bytes_, "\u2581"] if kind == "fallback" else sorted({*pre_tokenizers.ByteLevel.alphabet()} - {*letters})
    vocabulary = ["<s>", "<unk>", *single, *pieces]
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
        position = chance.randrange(len(word) - 1)
        pair = (word[position], word[position + 1])
        pairs[pair] = None
        for word in words:
            for at in range(len(word) - 1, 0, -1):
                if (word[at - 1], word[at]) == pair and at < len(word):
                    word[at - 1 : at + 1] = ["".join(pair)]
    return list(pairs)


_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_TO_SPACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
_BACK = [_TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
_PARTS: dict[str, dict[str, Any]] = {
    "bytes": {"normalizer": None, "pre_tokenizer": _LEVEL, "post_processor": None, "decoder": _LEVEL},
    "fallback": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _BACK},
    },
}


def random_bpe_texts(seed: int, number: int) -> list[str]:
    """Words of `LETTERS` of up to 12 letters, and now and then a character that no merge knows."""
    chance = random.Random(seed)

    def word() -> str:
        return "".join(chance.choices(LETTERS, k=chance.randint(1, 12)))

    others = ("\u00e9", "x", "\u4e2d", "\n", "0")
    words = (word() + (chance.choice(others) if chance.random() < 0.1 else "") for _ in range(6 * number))
    return [" ".join(text) for text in zip(*[words] * 6, strict=True)]


def tokenizer_json(tokenizer: dict[str, Any]) -> str:
    return json.dumps(tokenizer)
