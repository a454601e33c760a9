"""The vocabulary of each variant: the tokens that the texts of its tasks use, and all tokens that these need."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from seap_export.common.json_file import read_json
from seap_export.corpus import Sample, Split, Task
from seap_export.errors import InputError
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.choice import VocabularySize, check_size, choose_tokens, required_tokens
from seap_export.model.vocabulary.config import named_tokens
from seap_export.model.vocabulary.pairs import BytePairs
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import fixed_tokens
from seap_export.model.vocabulary.use import TokenUse
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.texts.chat import ModelChat, chat_of_source
from seap_export.pipeline.texts.tokenizer import load_tokenizer, token_ids
from validation.quiet import quiet_transformers

#: Texts that are cut at a time.
_BATCH = 1000
#: The share of a further text's tokens that may be missing without a warning.
_MISSING = 0.01
#: What a chat template puts into a prompt without naming it.
_ROLES = ("system", "user", "assistant")


def choose_vocabularies(
    source: Source,
    tasks: Sequence[Task],
    mixtures: Mapping[str, Sequence[str]],
    size: VocabularySize,
    progress: Progress,
    chat: ModelChat | None = None,
    splits: Mapping[str, Split] = MappingProxyType({}),
) -> dict[str, Vocabulary]:
    """The vocabulary of each mixture; none if `size` is `all`.

    All texts of a task count: those to calibrate on, the held-out ones and the rest, at their whole length, prompts
    by themselves as well, and the words of the chat template.

    Args:
        mixtures: Names of the tasks of each mixture; others than these tasks, such as the support, do not count.
        chat: Renders conversations; None: the model's chat template does.
        splits: Texts of the tasks that count as well, such as answers of the dense model.
    """
    if size == "all":
        return {}
    all_tokens = source.spec.vocab_size
    with quiet_transformers():
        tokenizer, content, pairs, named = _cuttable(source)
        renders = chat or chat_of_source(source)
        used = {task.name: _used(tokenizer, task, splits.get(task.name), renders, progress) for task in tasks}
    uses = {
        name: reduce(TokenUse.together_with, [used[task] for task in names if task in used], TokenUse())
        for name, names in mixtures.items()
    }
    required = {name: required_tokens(content, pairs, named | use.tokens) for name, use in uses.items()}
    check_size(size, max(map(len, required.values())), all_tokens)
    vocabularies = {name: choose_tokens(pairs, needed, size, all_tokens) for name, needed in required.items()}
    for name, use in uses.items():
        without = required_tokens(content, pairs, named | (use.tokens - use.of_one_text))
        _tell_missing(name, vocabularies[name], size, partial(_missing, use, pairs, without, all_tokens), progress)
    return vocabularies


def refuse_uncuttable(source: Source, size: VocabularySize) -> None:
    """Refuses what `choose_vocabularies` would refuse whatever the texts are."""
    if size == "all":
        return
    with quiet_transformers():
        _, content, pairs, named = _cuttable(source)
    check_size(size, len(required_tokens(content, pairs, named)), source.spec.vocab_size)


def _cuttable(source: Source) -> tuple[Any, dict[str, Any], BytePairs, frozenset[int]]:
    """The tokenizer, its file, its pairs, and the tokens that the model and its chat template name."""
    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        content = read_json(Path(folder) / "tokenizer.json")
    tokenizer = load_tokenizer(source)  # refuses a damaged one
    pairs = BytePairs.read(content)
    _refuse_tokens_without_rows(source, max(fixed_tokens(content).union(pairs.ids.values())))
    return tokenizer, content, pairs, named_tokens(source.config, source.generation_config) | _chat_tokens(tokenizer)


def _missing(
    use: TokenUse, pairs: BytePairs, without: frozenset[int], all_tokens: int, size: int | Literal["auto"]
) -> float:
    """The share of a further text's tokens that are not kept, if `without` must be, which no text needs alone."""
    return use.missing(choose_tokens(pairs, without, size, all_tokens).kept)


def _tell_missing(
    name: str,
    vocabulary: Vocabulary,
    size: int | Literal["auto"],
    missing: Callable[[int | Literal["auto"]], float],
    progress: Progress,
) -> None:
    """Says how many tokens of further texts will be missing, and warns if these are many."""
    share = missing(size)
    said = f"{name}: in new texts, about {share:.1%} of the tokens will be missing from the {len(vocabulary):,}"
    if share <= _MISSING:
        progress.say(f"{said} that are kept")
        return
    sizes = (1 << power for power in range(len(vocabulary).bit_length(), (vocabulary.of - 1).bit_length()))
    shares = ((number, missing(number)) for number in sizes)
    enough = next((f"{number} ({less:.1%} missing)" for number, less in shares if less <= _MISSING), "all")
    progress.warn(
        f"{said} that --vocabulary keeps; they are split into smaller tokens, which the model knows less well; "
        f"give more texts, or --vocabulary {enough}"
    )


def _refuse_tokens_without_rows(source: Source, largest: int) -> None:
    if largest >= source.spec.vocab_size:
        raise InputError(
            f"{source.name}: its tokenizer has the token id {largest}, its model a vocabulary of "
            f"{source.spec.vocab_size}, which cannot be cut; use --vocabulary all, or the tokenizer of the model"
        )


def _used(tokenizer: Any, task: Task, split: Split | None, chat: ModelChat, progress: Progress) -> TokenUse:
    """The tokens of all texts of a task, and those of their prompts alone."""
    use, answered = TokenUse(), (*split.calibration, *split.held_out) if split else ()
    asked, corpus_texts = {sample.prompt for sample in answered if sample.prompt}, dict[str, str]()
    with progress.step(f"tokens of all texts of {task.name}", name=f"vocabulary/{task.name}"):
        for sample, ids, prompt_ids in _cut(tokenizer, task.texts(chat)):
            use.add(sample.text, ids)
            use.add_uncounted(prompt_ids)
            if sample.prompt in asked:
                corpus_texts.setdefault(sample.prompt, sample.text)
        for sample, ids, prompt_ids in _cut(tokenizer, answered):
            use.add(sample.text, ids, version_of=corpus_texts.get(sample.prompt))
            use.add_uncounted(prompt_ids)
    return use


def _cut(tokenizer: Any, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Sequence[int], Sequence[int]]]:
    """Each sample with the tokens of its text, and those of its prompt alone, if it is a part of the text."""
    remaining = iter(samples)
    while batch := list(islice(remaining, _BATCH)):
        texts = token_ids(tokenizer, [sample.text for sample in batch])
        prompts = token_ids(tokenizer, [sample.prompt if sample.completion else "" for sample in batch])
        yield from zip(batch, texts, prompts, strict=True)


def _chat_tokens(tokenizer: Any) -> frozenset[int]:
    """The tokens of the words that chat templates add to a prompt; those of the template's code are few."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return frozenset()
    texts = [template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)]
    texts += [f"{role}{end}" for role in _ROLES for end in ("", "\n")]
    return frozenset(token for ids in token_ids(tokenizer, texts) for token in ids)
