"""SentencePiece BPE with byte fallback (`tokenizer.ggml.model` is "llama"), as in the tokenizer.json of Llama 2."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from seap_export.errors import InputError
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers.vocabulary import NORMAL, special_token, token_list, vocabulary

_SPACE = "\u2581"  # sentencepiece's symbol for a space


def sentencepiece(file: GgufFile) -> Tokenizer:
    """The tokenizer without special tokens."""
    if file.form.tokenizers:
        raise InputError(
            f"{file.path}: a sentencepiece tokenizer is not supported for a {file.form.architecture} file; "
            "give the Hugging Face folder"
        )
    ids = vocabulary(file)
    unknown = special_token(file, "unknown")
    if unknown is None or any(f"<0x{byte:02X}>" not in ids for byte in range(256)):
        raise InputError(
            f"{file.path}: the tokenizer has no unknown token or lacks byte tokens; give the Hugging Face folder"
        )
    merges = _merges_of_scores(file, ids)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    escape, unescape = normalizers.Replace(" ", _SPACE), decoders.Replace(_SPACE, " ")
    steps = [unescape, decoders.ByteFallback(), decoders.Fuse()]
    if file.metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = escape
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_of_scores(file: GgufFile, ids: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that merge into another token, best score first."""
    scores, kinds = token_list(file, "scores", float), token_list(file, "token_type", int)
    if not len(scores) == len(kinds) == len(ids):
        raise InputError(f"{file.path}: the tokenizer's scores do not match its tokens; download the file again")
    score_of = {token: scores[index] for token, index in ids.items() if kinds[index] == NORMAL}
    merged = [token for token in score_of if len(token) > 1]
    ranked = [score_of[token] for token in merged if len(set(token)) > 1]
    if len(set(ranked)) != len(ranked):
        # The converter did not know the scores and wrote the same for all: the order of merges is lost.
        raise InputError(
            f"{file.path}: the tokenizer's scores do not rank its tokens; give the Hugging Face folder instead"
        )
    pairs = [
        (token[:cut], token[cut:])
        for token in merged
        for cut in range(1, len(token))
        if token[:cut] in score_of and token[cut:] in score_of
    ]
    # Runs of one character, such as spaces, may share a score: the longest first grows a run from its left end.
    return sorted(pairs, key=lambda pair: (-score_of[pair[0] + pair[1]], -len(pair[0]), -len(pair[1])))
