"""The right answers that a variant learns, in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seap_export.common.hashing import sha256_json
from seap_export.corpus import Split
from seap_export.errors import InputError
from seap_export.pruning.distillation.learning import AnsweredText
from seap_export.runtime.files import encode_all, load_tokenizer


def answers_digest(splits: Sequence[Split]) -> str:
    """A hash of the texts, of where their answers begin, and of how the model is asked later."""
    texts = sorted({(sample.prompt, sample.completion) for split in splits for sample in split.calibration})
    return sha256_json([texts, [None if split.job is None else split.job.to_json() for split in splits]])


def answered_texts(folder: Path, splits: Sequence[Split], max_length: int) -> list[AnsweredText]:
    """The texts that a model learns, in the tokens of its folder.

    What follows `max_length` tokens is left out, and so are texts whose prompt, or whose answer, has no token then.

    Raises:
        InputError: No two texts are left.
    """
    samples = [sample for split in splits for sample in split.calibration if sample.completion]
    tokenizer = load_tokenizer(folder)
    texts = encode_all(tokenizer, [sample.text for sample in samples])
    prompts = encode_all(tokenizer, [sample.prompt for sample in samples])
    answered = set[AnsweredText]()
    for ids, prompt in zip(texts, prompts, strict=True):
        # an answer may begin within a token of the whole text
        pairs = enumerate(zip(ids, prompt, strict=False))
        first = next((index for index, (one, other) in pairs if one != other), min(len(ids), len(prompt)))
        if 0 < first < min(len(ids), max_length):
            answered.add(AnsweredText(tuple(ids[:max_length]), first))
    if len(answered) < 2:
        raise InputError(
            f"{len(answered)} of {len(samples)} texts have an answer within {max_length} tokens, too few to learn; "
            "raise max_length, or leave 'learn' out"
        )
    return list(answered)
