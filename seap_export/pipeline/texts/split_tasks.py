"""Splits the texts of an export's tasks into calibration and held-out ones, and counts their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, permutations
from typing import Any

from seap_export.corpus import Sample, Split, Task, split_samples
from seap_export.corpus.split import HELD_OUT
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.source import Source
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.mixtures import MixtureSpec, Support
from seap_export.pipeline.request.options import CALIBRATION_TOKENS, CalibrationSettings
from seap_export.pipeline.texts.chat import ModelChat, chat_of_source
from seap_export.pipeline.texts.tokenizer import load_tokenizer, token_ids
from validation.quiet import quiet_transformers

#: Texts that are tokenized at a time.
_TEXTS = 256
#: Held-out texts of a task that is learnt, whose accuracy on them is what counts.
_HELD_OUT_IF_LEARNT = 200


def split_tasks(
    source: Source,
    tasks: Sequence[Task],
    settings: CalibrationSettings,
    support: Support | None = None,
    chat: ModelChat | None = None,
) -> dict[str, Split]:
    """Each task's calibration and held-out texts, and those of the support, with the calibration tokens counted.

    If the dense model answers the prompts itself, those of tasks are the prompts alone.

    Args:
        chat: Renders conversations; None: the model's chat template does.
    """
    chat = chat or chat_of_source(source)
    splits = {
        task.name: _split(
            task,
            task.texts(chat) if settings.answers == "data" else task.prompts(chat),
            settings,
            settings.held_out,
            chat,
        )
        for task in tasks
    }
    if support is not None:
        measured = {sample.text for split in splits.values() for sample in split.held_out}
        others = (sample for sample in support.task.texts(chat) if sample.text not in measured)
        splits[support.task.name] = _split(support.task, others, settings, 0, chat)
    return cut_to_tokens(source, splits, settings)


def refuse_shared_texts(mixtures: Iterable[MixtureSpec], splits: Mapping[str, Split]) -> None:
    """Refuses a variant that would be measured on texts that it is made from."""
    digests = {task: split.digests() for task, split in splits.items()}
    for mixture in mixtures:
        for one, other in permutations(mixture.weights, 2):
            shared = set(digests[one]["held_out"]).intersection(digests[other]["calibration"])
            if shared:
                raise InputError(
                    f"variant '{mixture.name}': {len(shared)} of the held-out texts of task '{one}' are calibration "
                    f"texts of task '{other}'; give each text to one task only"
                )


def cut_to_tokens(source: Source, splits: Mapping[str, Split], settings: CalibrationSettings) -> dict[str, Split]:
    """The texts that have no more than the tokens to calibrate on, which are counted; the first one always stays."""
    most, longest = settings.most_tokens, _longest(source, settings.max_length)
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
        return {task: _cut_to_tokens(task, tokenizer, split, most, longest) for task, split in splits.items()}


def warn_of_texts(splits: Mapping[str, Split], spec: ModelSpec, progress: Progress, *, refits: bool = True) -> None:
    """Says what a user should know about the texts: `Split.notices`, and that they are too few.

    A refit solves for as many unknowns as a projection has inputs; with fewer tokens, its ridge decides.

    Args:
        refits: Whether weights are fitted to the texts; if not, few are enough.
    """
    inputs = max(spec.channels)
    digests = {task: sorted(chain(*split.digests().values())) for task, split in splits.items()}
    for one, other in combinations(splits, 2):
        if digests[one] == digests[other]:
            progress.warn(
                f"tasks '{one}' and '{other}' have the same texts, so their variants are alike and no router can tell "
                "their prompts apart; leave one out, or give it texts of its own"
            )
    for notice in dict.fromkeys(notice for split in splits.values() for notice in split.notices):
        progress.warn(notice)
    for task, split in splits.items():
        total = len(split.calibration) + len(split.held_out)
        given = split.num_repeated + split.num_distinct
        repeated = f"task '{task}': {split.num_repeated} of its {given} texts repeat others and are left out"
        if split.num_repeated > split.num_distinct:
            left = f"{len(split.calibration)} calibration and {len(split.held_out)} held-out texts"
            progress.warn(f"{repeated}, so that {left} are left; give more texts that differ")
        elif split.num_repeated:
            progress.say(repeated)
        if 0 < split.num_conversations < total:
            progress.warn(
                f"task '{task}': {split.num_conversations} of its {total} texts are conversations in the chat "
                "template, and the others plain texts; give texts of the form alone in which prompts will come"
            )
        if refits and split.num_tokens and split.num_tokens < inputs:
            texts = f"{len(split.calibration)} calibration text{'s' * (len(split.calibration) != 1)}"
            progress.warn(
                f"task '{task}': {split.num_tokens} tokens in {texts} are too few to refit this model well; "
                f"calibrate on at least {inputs}, better {CALIBRATION_TOKENS} tokens"
            )


def _split(
    task: Task, samples: Iterator[Sample], settings: CalibrationSettings, num_held_out: int | None, chat: ModelChat
) -> Split:
    is_learnt = task.is_learnt and settings.answers == "data"
    split = split_samples(
        task.name,
        samples,
        num_samples=settings.samples,
        num_held_out=num_held_out,
        seed=settings.seed,
        most=settings.most_tokens,  # a text has a token at least, or does not count
        most_held_out=_HELD_OUT_IF_LEARNT if is_learnt else HELD_OUT,
    )
    notices = tuple(filter(None, (task.notice, chat.notice)))
    return replace(split, notices=notices, is_learnt=is_learnt, job=task.job if is_learnt else None)


def _cut_to_tokens(task: str, tokenizer: Any, split: Split, most: int | None, max_length: int) -> Split:
    """Leaves out the texts from the one on that would exceed `most` tokens; the first one always stays."""
    number = total = whole = 0
    for length in _lengths(tokenizer, split.calibration):
        more = total + min(length, max_length)
        if number and most is not None and more > most:
            break
        number, total, whole = number + 1, more, whole + length
    cut = split.calibrated_on(number, total)
    if whole <= 2 * total:
        return cut
    notice = (
        f"task '{task}': texts are cut after {max_length} tokens, which leaves out {1 - total / whole:.0%} of their "
        "tokens; split them, or raise max_length as far as the model has positions"
    )
    return replace(cut, notices=(*cut.notices, notice))


def _lengths(tokenizer: Any, samples: Sequence[Sample]) -> Iterator[int]:
    for start in range(0, len(samples), _TEXTS):
        yield from map(len, token_ids(tokenizer, [sample.text for sample in samples[start : start + _TEXTS]]))


def _longest(source: Source, max_length: int) -> int:
    """The most tokens of a calibration text: `max_length`, but no more than the model has positions."""
    return min(max_length, source.spec.max_position_embeddings)


def tokenize(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of each task's texts, as many as the model has positions for; a text without a token is left out."""
    by_task = {}
    with quiet_transformers():
        tokenizer = load_tokenizer(source)
        for task, samples in texts.items():
            sequences = token_ids(tokenizer, [sample.text for sample in samples])
            by_task[task] = [ids[: _longest(source, max_length)] for ids in sequences if ids]
    for task, sequences in by_task.items():
        if not sequences:
            raise InputError(f"task '{task}': the tokenizer gives no token for any text; use another corpus")
        largest = max(map(max, sequences))
        if largest >= source.spec.vocab_size:
            raise InputError(
                f"{source.name}: its tokenizer gives token id {largest}, its model has a vocabulary of "
                f"{source.spec.vocab_size}; use the tokenizer that belongs to the model"
            )
    return by_task
