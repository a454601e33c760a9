"""Fresh texts of a task: the dense model continues the beginnings of the calibration texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from seap_export.corpus import Sample
from seap_export.model.layers.compute import Compute
from seap_export.pruning.activations.statistics import Calibration, read_tokens, write_tokens
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.runtime.files import encode_all, load_tokenizer
from validation.execution import Execution
from validation.generation.sampled import Beginning, open_author, sampled_texts

#: Tokens of the texts that are written together, after which they are on disk.
BATCH_TOKENS = 8192
#: How often progress is reported.
PARTS = 50
#: Texts of the task that the model reads before one that it goes on with, so that it keeps to their form.
_SHOWN, _SHOWN_TOKENS = 3, 1024
#: A beginning is this part of a text at least, and at most.
_LEAST, _MOST = 1 / 8, 1 / 2
#: Texts that share this many tokens in a row overlap; as for GPT-3 (arXiv 2005.14165, appendix C).
_OVERLAP = 13
#: Tokens in a row by which near-duplicates are known, and the share of those in a text that others have, too.
_GRAM, _REPEATED = 8, 0.5
#: No more rounds through the beginnings after one of which less than this share of the texts was new.
_FEWEST_NEW = 0.1

TokenIds = Sequence[int]


def beginnings(
    texts: Sequence[TokenIds], answer_start: TokenIds, separator: TokenIds, length: int, room: int, seed: int
) -> Iterator[Beginning]:
    """Yields beginnings for the model to continue, round after round through the texts, cut at new places each time.

    A text with an assistant's turn is continued from the start of the last one on. Others are cut at random, between
    an eighth and a half, get as long as they were at most, and are read after others, which differ in each round.
    """
    long_enough = [ids for ids in texts if len(ids) > 1]
    for number in count() if long_enough else ():
        shown = _shown(long_enough, separator, room, _drawn_by(seed, number))
        for ids in long_enough:
            drawn = _drawn_by(seed, number, *ids)
            cut = _last_start(ids, answer_start)
            if 0 < cut < length:
                yield Beginning(tuple(ids[:cut]), length, int(drawn.integers(2**31)))
            else:
                most = min(len(ids), length)
                cut = _random_cut(most, drawn)
                yield Beginning(tuple(ids[:cut]), most, int(drawn.integers(2**31)), shown)


def _drawn_by(*numbers: int) -> np.random.Generator:
    digest = hashlib.sha256(np.array(numbers, np.int64).tobytes()).digest()
    return np.random.Generator(np.random.PCG64(list(digest)))


def _shown(texts: Sequence[TokenIds], separator: TokenIds, room: int, drawn: np.random.Generator) -> tuple[int, ...]:
    """Some texts, each with the separator after it, as far as there is room."""
    shown: tuple[int, ...] = ()
    for index in drawn.permutation(len(texts))[:_SHOWN]:
        more = (*texts[index], *separator)
        shown += more if len(shown) + len(more) <= room else ()
    return shown


def _random_cut(length: int, drawn: np.random.Generator) -> int:
    return int(drawn.integers(max(1, round(_LEAST * length)), max(1, round(_MOST * length)) + 1))


def _last_start(ids: TokenIds, answer_start: TokenIds) -> int:
    """Where the last assistant's turn goes on after the tokens with which it starts; 0: there is none."""
    size = len(answer_start)
    for start in range(len(ids) - size, -1, -1) if size else ():
        if list(ids[start : start + size]) == list(answer_start):
            return start + size
    return 0


@dataclass
class FreshTexts:
    """Texts that are neither held out nor near-duplicates of others.

    `overlapping` texts were left out because they share tokens with a held-out text.
    """

    known: Sequence[TokenIds]
    held_out: Sequence[TokenIds]
    texts: list[list[int]] = field(default_factory=list)
    overlapping: int = 0
    repeated: int = 0

    def __post_init__(self) -> None:
        common = {gram for ids in self.known for gram in _grams(ids, _OVERLAP)}  # such as what all prompts begin with
        self._held_out = {gram for ids in self.held_out for gram in _grams(ids, _OVERLAP)} - common
        self._known = {gram for ids in self.known for gram in _grams(ids, _GRAM)}

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.texts))

    @property
    def summary(self) -> str:
        """One line for the user on how many tokens and texts are kept, and how many texts are left out."""
        left_out = f"{self.repeated} near-duplicates and {self.overlapping} that overlap held-out texts are left out"
        return f"{self.num_tokens:,} tokens in {len(self.texts)} fresh texts; {left_out}"

    def add(self, ids: list[int], given: int) -> bool:
        """Keeps a text or leaves it out; returns whether it is kept.

        Args:
            ids: The text's token ids.
            given: How many of these tokens the model was given as the beginning.
        """
        if not self._held_out.isdisjoint(_grams(ids, _OVERLAP)):
            self.overlapping += 1
            return False
        written = list(_grams(ids[max(0, given - _GRAM + 1) :], _GRAM))
        if sum(gram in self._known for gram in written) >= max(1, _REPEATED * len(written)):
            self.repeated += 1
            return False
        self._known.update(written)
        self.texts.append(ids)
        return True


def _grams(ids: TokenIds, size: int) -> Iterator[tuple[int, ...]]:
    """Yields all n-grams of `size` tokens; of a shorter text, the whole text."""
    for start in range(max(1, len(ids) - size + 1)):
        yield tuple(ids[start : start + size])


def write_fresh_texts(
    model: Path,
    calibration: Calibration,
    number: int,
    folder: Path,
    *,
    compute: Compute,
    on_part: Callable[[object], object] = lambda part: None,
) -> FreshTexts:
    """Writes the token ids of fresh texts; it continues what an interrupted call with the same inputs left.

    Args:
        model: The folder of the dense model.
        calibration: The statistics of the task, with its texts.
        number: Tokens of the fresh texts, beginnings and all; fewer if the model has nothing new to say.
        folder: An existing folder.
        compute: Where the model runs.
        on_part: Called `PARTS` times, as the work proceeds.

    Raises:
        ArtifactError: The model's logits are NaN or infinite.
        EnvironmentFailure: There is not enough memory.
    """
    record, known = calibration.record, calibration.token_ids()
    texts = [Sample(**sample).text for sample in record.held_out]
    held_out = encode_all(load_tokenizer(model), texts)
    fresh, tried, kept, done = FreshTexts(known, held_out), 0, 0, 0
    with open_author(model, Execution(compute=compute)) as author:
        length = min(record.max_length, author.longest)
        room = min(_SHOWN_TOKENS, author.longest - length)
        plan = beginnings(known, author.answer_start, author.separator, length, room, record.seed)
        for batch_number in count():
            path = folder / f"{batch_number:05}"
            batch = _batch(plan, min(BATCH_TOKENS, number - fresh.num_tokens))
            if not batch:
                break
            if not path.is_file():
                write_tokens(path, sampled_texts(author, batch))
            for beginning, ids in zip(batch, read_tokens(path), strict=True):
                tried += 1
                kept += fresh.add(ids, len(beginning.tokens))
            done = _reported(done, fresh.num_tokens / number, on_part)
            if tried >= len(known):
                if kept < _FEWEST_NEW * tried:
                    break
                tried = kept = 0
    _reported(done, 1.0, on_part)
    return fresh


def _batch(plan: Iterator[Beginning], tokens: int) -> list[Beginning]:
    """The next beginnings, until their texts may have this many tokens."""
    batch, most = list[Beginning](), 0
    while most < tokens and (beginning := next(plan, None)):
        batch.append(beginning)
        most += beginning.length
    return batch


def with_fresh_texts(
    model: Path,
    statistics: TaskMixture,
    number: int,
    folder: Path,
    *,
    compute: Compute,
    on_part: Callable[[object], object] = lambda part: None,
) -> TaskMixture:
    """A mixture with fresh texts of each task; see `write_fresh_texts`.

    Args:
        model: The folder of the dense model.
        number: Tokens of each task with its calibration texts; no text is written where these have as many.
        folder: An existing folder for what is needed to go on after an interruption.
        compute: Where the model runs.
        on_part: Called `PARTS` times for each task.
    """
    texts = {}
    for task, calibration in statistics.calibrations.items():
        lacking = number - calibration.record.num_tokens
        if lacking <= 0:
            _reported(0, 1.0, on_part)
            continue
        written = folder / task
        written.mkdir(exist_ok=True)
        fresh = write_fresh_texts(model, calibration, lacking, written, compute=compute, on_part=on_part)
        texts[task] = fresh.texts
    return statistics.with_fresh(texts)


def _reported(done: int, share: float, on_part: Callable[[object], object]) -> int:
    """Reports the parts up to a share of the work; returns how many are reported then."""
    now = min(PARTS, int(PARTS * share))
    for part in range(done, now):
        on_part(part)
    return now
