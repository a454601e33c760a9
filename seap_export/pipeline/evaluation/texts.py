"""The texts of an evaluation as tokens of the dense model and of the variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from seap_export.common.json_file import read_artifact
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.sizes import token_sizes
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from seap_export.runtime.files import load_tokenizer
from validation.divergence.paired import Bytes, PairedText, pair_cuts, same_cut
from validation.prompts import tokenize_prompts


@contextmanager
def dense_tokenizer(subject: Subject, request: EvaluationRequest) -> Iterator[Path | None]:
    """The folder of the tokenizer whose tokens the dense model is given; None: it is in the model's folder.

    It is the variant's, so that both are given the same tokens, unless the variant lacks some.
    """
    if subject.variant is None:
        yield None
    elif subject.dense is None or subject.vocabulary is None:
        yield subject.artifact(request.tokenizer_folder)
    else:
        with tokenizer_folder(subject.dense) as folder:
            yield folder


def paired_texts(
    subject: Subject, dense: Source, folder: Path, texts: Sequence[str], most: int
) -> tuple[PairedText, ...]:
    """Texts as the tokens of the dense model and of a variant, at most `most` of each.

    A text that both cut without a common place among these is left out.

    Args:
        most: The most tokens of a text.
    """
    kept = subject.vocabulary
    size = dense.spec.vocab_size if kept is None else len(kept)
    tokenizer = load_tokenizer(folder)
    token_ids = tokenize_prompts(folder, texts, max_tokens=most, vocab_size=size)
    if kept is None:
        return tuple(_measured(same_cut(ids), tokenizer, tokenizer) for ids in token_ids)
    sizes = token_sizes(read_artifact(folder / "tokenizer.json"))
    with tokenizer_folder(dense) as whole:
        cuts = tokenize_prompts(whole, texts, max_tokens=most, vocab_size=dense.spec.vocab_size)
        whole_tokenizer, whole_sizes = load_tokenizer(whole), token_sizes(read_artifact(whole / "tokenizer.json"))
    pairs = (
        pair_cuts(ids, variant_ids, whole_sizes, sizes, most) for ids, variant_ids in zip(cuts, token_ids, strict=True)
    )
    return tuple(_measured(pair, whole_tokenizer, tokenizer) for pair in pairs if pair is not None)


def _measured(pair: PairedText, dense: Tokenizer, variant: Tokenizer) -> PairedText:
    """The pair with the byte lengths of its text."""
    whole = _bytes(variant, pair.variant)
    first, variant_first = _bytes(dense, pair.dense[:1]), _bytes(variant, pair.variant[:1])
    return replace(pair, bytes=Bytes(whole, max(0, whole - first), max(0, whole - variant_first)))


def _bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    return len(tokenizer.decode(list(ids)).encode())
