"""Writes the tokenizer of a GGUF file as files that transformers and ONNX Runtime GenAI can load.

A GGUF file holds a vocabulary and the name of the rule that splits text before merging. The rules below were compared
with llama.cpp; unknown names are rejected, because a wrong rule gives token ids that look right but are not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from seap_export.errors import InputError
from seap_export.sources.gguf_file import GgufFile
from seap_export.sources.tokenizer import MODEL_INPUTS

__all__ = ["gguf_generation_config", "write_gguf_tokenizer"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\u2581"  # sentencepiece's symbol for a space
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
)
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES_AND_SPACES}"
)


#: For this `model_type` transformers 5 always loads tokenizers with the rule of Qwen2, whatever the files state.
_QWEN2_FAMILY = "qwen2"


@dataclass(frozen=True)
class _Rule:
    """How text is split for a byte-level vocabulary.

    Attributes:
        split: Regular expression for the pieces; None: GPT-2's.
        digits_apart: Whether digits are split off one by one first.
        whole_words: Whether a piece that is a token is used without merging.
        composed: Whether the original tokenizer composes characters (NFC), which a GGUF file does not record.
        adds_bos: Whether the BOS token is added if the file does not say.
    """

    split: str | None = None
    digits_apart: bool = False
    whole_words: bool = False
    composed: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.split is None)
        if self.digits_apart:
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if self.split is None:
            return byte_level
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(self.split), behavior="isolated"), byte_level])


_LLAMA3_RULE = _Rule(_LLAMA3, whole_words=True, adds_bos=True)
_QWEN2_RULE = _Rule(_QWEN2, composed=True)
#: Keyed by `tokenizer.ggml.pre`. "default" is left out: it means that the converter did not know the rule.
_RULES = {
    "deepseek-r1-qwen": _QWEN2_RULE,
    "gpt-2": _Rule(),
    "llama-bpe": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "qwen2": _QWEN2_RULE,
    "smollm": _Rule(digits_apart=True),
    "tekken": _Rule(_TEKKEN, whole_words=True, adds_bos=True),
}


def write_gguf_tokenizer(file: GgufFile, folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` (with the chat template) into an existing folder.

    Raises:
        InputError: The file has no tokenizer, or one whose token ids cannot be guaranteed.
    """
    tokenizer, adds_bos = _build(file)
    _add_special_tokens(file, tokenizer)
    _frame(file, tokenizer, adds_bos)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), "utf-8", newline="\n")
    text = json.dumps(_tokenizer_config(file), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8", newline="\n")


def gguf_generation_config(file: GgufFile) -> dict[str, Any]:
    """A generation_config.json with the BOS and PAD ids, and the EOS id or a list of it and the end-of-turn id."""
    ids = {key: _token_id(file, key) for key in ("bos", "eos", "eot", "padding")}
    ends = list(dict.fromkeys(ids[key] for key in ("eos", "eot") if ids[key] is not None))
    eos = ends if len(ends) > 1 else next(iter(ends), None)
    config = {"bos_token_id": ids["bos"], "eos_token_id": eos, "pad_token_id": ids["padding"]}
    return {key: value for key, value in config.items() if value is not None}


def _build(file: GgufFile) -> tuple[Tokenizer, bool]:
    """The tokenizer without special tokens, and whether it adds BOS if the file does not say."""
    kind = file.metadata.get("tokenizer.ggml.model")
    try:
        if kind == "gpt2":
            rule = _rule(file)
            return _byte_level(file, rule), rule.adds_bos
        if kind == "llama" and file.family.model_type != _QWEN2_FAMILY:
            return _sentencepiece(file), True
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises a plain `Exception` for invalid merges
        raise InputError(f"{file.path}: the tokenizer is damaged ({error}); download the file again") from error
    raise InputError(
        f"{file.path}: tokenizer model {kind!r} is not supported; supported: gpt2, llama; give the Hugging Face folder"
    )


def _rule(file: GgufFile) -> _Rule:
    name = file.metadata.get("tokenizer.ggml.pre")
    if name not in _RULES:
        raise InputError(
            f"{file.path}: pre-tokenizer {name!r} is not supported; supported: {', '.join(_RULES)}; "
            "give the Hugging Face folder, or convert it again with a current llama.cpp"
        )
    rule = _RULES[name]
    if file.family.model_type == _QWEN2_FAMILY and rule is not _QWEN2_RULE:
        raise InputError(
            f"{file.path}: pre-tokenizer {name!r} is not supported for a {_QWEN2_FAMILY} model; "
            "give the Hugging Face folder"
        )
    return rule


def _byte_level(file: GgufFile, rule: _Rule) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in _list(file, "merges", str)]
    if any(len(merge) != 2 for merge in merges):
        raise InputError(f"{file.path}: the tokenizer has a merge that is not a pair; download the file again")
    tokenizer = Tokenizer(BPE(vocab=_vocabulary(file), merges=merges, ignore_merges=rule.whole_words))
    if rule.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = rule.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile) -> Tokenizer:
    """Sentencepiece BPE as in the `tokenizer.json` of Llama 2, with byte fallback."""
    vocabulary = _vocabulary(file)
    unknown = _token(file, "unknown")
    if unknown is None or any(f"<0x{byte:02X}>" not in vocabulary for byte in range(256)):
        raise InputError(
            f"{file.path}: the tokenizer has no unknown token or lacks byte tokens; give the Hugging Face folder"
        )
    merges = _merges_of_scores(file, vocabulary)
    model = BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    escape, unescape = normalizers.Replace(" ", _SPACE), decoders.Replace(_SPACE, " ")
    steps = [unescape, decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = escape
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_of_scores(file: GgufFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that merge into another token, best score first."""
    scores, kinds = _list(file, "scores", float), _list(file, "token_type", int)
    if not len(scores) == len(kinds) == len(vocabulary):
        raise InputError(f"{file.path}: the tokenizer's scores do not match its tokens; download the file again")
    score_of = {token: scores[index] for token, index in vocabulary.items() if kinds[index] == _NORMAL}
    made = sorted((token for token in score_of if len(token) > 1), key=lambda token: -score_of[token])
    if len({score_of[token] for token in made}) != len(made):
        # The converter did not know the scores and wrote the same for all: the order of merges is lost.
        raise InputError(
            f"{file.path}: the tokenizer's scores do not rank its tokens; give the Hugging Face folder instead"
        )
    return [
        (token[:cut], token[cut:])
        for token in made
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in score_of and token[cut:] in score_of
    ]


def _add_special_tokens(file: GgufFile, tokenizer: Tokenizer) -> None:
    tokens = _list(file, "tokens", str)
    kinds = _list(file, "token_type", int) if "tokenizer.ggml.token_type" in file.metadata else []
    if kinds and len(kinds) != len(tokens):
        raise InputError(f"{file.path}: the tokenizer's token types do not match its tokens; download the file again")
    special = [token for token, kind in zip(tokens, kinds, strict=False) if kind in (_UNKNOWN, _CONTROL)]
    special += [token for key in ("bos", "eos", "padding") if (token := _token(file, key)) is not None]
    plain = [
        token for token, kind in zip(tokens, kinds, strict=False) if kind == _USER_DEFINED and token not in special
    ]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])


def _frame(file: GgufFile, tokenizer: Tokenizer, adds_bos: bool) -> None:
    """Makes the tokenizer add BOS and EOS as the file specifies."""
    first = _frame_token(file, "bos", adds_bos)
    last = _frame_token(file, "eos", False)
    used = {token for token in (first, last) if token is not None}
    if not used:
        return

    def around(text: str, sequence: int) -> list[str]:
        return [f"{token}:{sequence}" for token in (first, f"${text}", last) if token is not None]

    tokenizer.post_processor = processors.TemplateProcessing(
        single=around("A", 0),
        pair=around("A", 0) + around("B", 1),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(used)],
    )


def _frame_token(file: GgufFile, key: str, default: bool) -> str | None:
    if not file.metadata.get(f"tokenizer.ggml.add_{key}_token", default):
        return None
    token = _token(file, key)
    if token is None:
        raise InputError(
            f"{file.path}: the tokenizer adds a {key.upper()} token but names none; give the Hugging Face folder"
        )
    return token


def _tokenizer_config(file: GgufFile) -> dict[str, Any]:
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    template = file.metadata.get("tokenizer.chat_template")
    return {
        # This class uses tokenizer.json unchanged; one named after a model would rebuild parts of it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": MODEL_INPUTS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.whole("context_length"),
        # A missing token must be stated as null, or some classes add a default.
        **{name: _token(file, key) for name, key in names.items()},
        **({"chat_template": template} if template else {}),
    }


def _vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = _list(file, "tokens", str)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise InputError(f"{file.path}: the tokenizer lists a token twice; give the Hugging Face folder instead")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        raise InputError(
            f"{file.path}: {len(tokens)} tokens but {embedding.shape[0]} embeddings; give the Hugging Face folder"
        )
    return vocabulary


def _list(file: GgufFile, key: str, kind: type) -> Sequence[Any]:
    value = file.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not value or not isinstance(value[0], kind):
        raise InputError(f"{file.path}: the tokenizer's '{key}' are missing; give the Hugging Face folder instead")
    return value


def _token_id(file: GgufFile, key: str) -> int | None:
    value = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    if value is None:
        return None
    count = len(_list(file, "tokens", str))
    if not isinstance(value, int) or not 0 <= value < count:
        raise InputError(
            f"{file.path}: the {key} token {value!r} is not one of {count} tokens; download the file again"
        )
    return value


def _token(file: GgufFile, key: str) -> str | None:
    index = _token_id(file, key)
    return None if index is None else _list(file, "tokens", str)[index]
