"""Splits a corpus into texts to calibrate on and texts held out for evaluation.

Which side a text falls on depends on the text and the seed alone, not on its place in the file, and the
held-out texts are taken first, so that a larger calibration sample never reaches them.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from seap_export.corpus.task import Sample
from seap_export.errors import InputError, UsageError
from seap_export.runtime.job import Job

#: Held-out texts where their number is not given, and which part of a corpus they may be: one text in so many.
HELD_OUT, _ONE_IN = 16, 4


@dataclass(frozen=True)
class Split:
    """The calibration and the held-out texts of one task; no text is in both.

    Attributes:
        calibration: At least one text.
        num_tokens: Tokens of the calibration texts; None: they were not counted.
        num_repeated: Texts of the corpus that were left out because they repeat another one.
        num_distinct: All other texts of the corpus.
        notices: Notices for the user about the corpus.
        is_learnt: Whether variants are trained on the completions of the calibration texts.
        job: How a variant that has learnt them is asked; None: it has no form of its own.
    """

    calibration: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    num_tokens: int | None = None
    num_repeated: int = field(default=0, compare=False)
    num_distinct: int = field(default=0, compare=False)
    notices: tuple[str, ...] = field(default=(), compare=False)
    is_learnt: bool = False
    job: Job | None = None

    def __post_init__(self) -> None:
        if not self.calibration:
            raise InputError("a split needs at least one calibration text; give more texts")
        digests = self.digests()
        check_disjoint(digests["calibration"], digests["held_out"])

    @property
    def num_conversations(self) -> int:
        """The number of texts that a chat template, or a stand-in, has rendered."""
        return sum(sample.is_conversation for sample in (*self.calibration, *self.held_out))

    def question(self, sample: Sample) -> str:
        """What a user would ask to get a sample's prompt: the input of a job, else the sample's own question."""
        return (self.job is not None and self.job.input_of(sample.prompt)) or sample.question

    def digests(self) -> dict[str, list[str]]:
        """The sorted SHA-256 digests (hex) of the texts, under `calibration` and `held_out`."""
        return {
            "calibration": sorted(text_digest(sample.text) for sample in self.calibration),
            "held_out": sorted(text_digest(sample.text) for sample in self.held_out),
        }

    def calibrated_on(self, number: int, num_tokens: int | None = None) -> Split:
        """The same held-out texts, and the first calibration texts alone, which have so many tokens."""
        return replace(self, calibration=self.calibration[:number], num_tokens=num_tokens)


def split_samples(
    task_name: str,
    samples: Iterable[Sample],
    *,
    num_samples: int | None,
    num_held_out: int | None,
    seed: int,
    most: int | None = None,
    most_held_out: int = HELD_OUT,
) -> Split:
    """Chooses the calibration and the held-out texts among the distinct texts of a corpus.

    Args:
        task_name: The task, for error messages.
        samples: The corpus; only the chosen samples are kept in memory.
        num_samples: Calibration texts; None: all that are not held out, up to `most`.
        num_held_out: Held-out texts; None: `most_held_out`, but no more than a quarter of the corpus, and at least 1.
        seed: Another seed gives another choice.
        most: Calibration texts that are enough; None: there is no such number.

    Raises:
        UsageError: A number is too small.
        InputError: The corpus has too few distinct texts.
    """
    _check_numbers(task_name, num_samples, num_held_out)
    wanted = most if num_samples is None else num_samples
    reserved = most_held_out if num_held_out is None else num_held_out
    chosen, num_texts, num_repeated = _first_by_key(samples, None if wanted is None else reserved + wanted, seed)
    if num_held_out is None:
        num_held_out = max(1, min(most_held_out, num_texts // _ONE_IN))
    if num_texts <= num_held_out:
        raise InputError(
            f"task '{task_name}': the corpus has {num_texts} distinct text{'s' * (num_texts != 1)}, but "
            f"{num_held_out} held-out text{'s' * (num_held_out > 1)} and at least 1 calibration text are needed; "
            f"{'hold out fewer texts or ' * (num_held_out > 1)}give more texts"
        )
    if num_samples is not None and num_texts < num_held_out + num_samples:
        raise InputError(
            f"task '{task_name}': the corpus has {num_texts} distinct texts, but {num_samples} calibration + "
            f"{num_held_out} held-out texts were asked for; set samples to {num_texts - num_held_out} "
            "or give more texts"
        )
    end = None if wanted is None else num_held_out + wanted
    return Split(chosen[num_held_out:end], chosen[:num_held_out], num_repeated=num_repeated, num_distinct=num_texts)


def text_digest(text: str) -> str:
    """The SHA-256 digest (64 hex digits) of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_disjoint(calibration: Iterable[str], evaluated: Iterable[str]) -> None:
    """Refuses to evaluate on calibration texts; both are given as digests.

    Raises:
        InputError: A text is in both.
    """
    evaluated = set(evaluated)
    shared = len(evaluated.intersection(calibration))
    if shared:
        raise InputError(
            f"{shared} of the {len(evaluated)} evaluated texts were used for calibration; evaluate on other texts"
        )


def _check_numbers(task_name: str, num_samples: int | None, num_held_out: int | None) -> None:
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"task '{task_name}': {num_samples} calibration texts were requested; request at least 1")
    if num_held_out is not None and num_held_out < 0:
        raise UsageError(f"task '{task_name}': {num_held_out} held-out texts were requested; request 0 or more")


def _first_by_key(samples: Iterable[Sample], size: int | None, seed: int) -> tuple[tuple[Sample, ...], int, int]:
    """The `size` samples whose texts have the smallest keys, or all, in order of the key."""
    seen: set[bytes] = set()
    chosen: dict[int, Sample] = {}
    largest_first: list[int] = []
    repeated = 0
    for sample in samples:
        digest = hashlib.sha256(f"{seed}\0{sample.text}".encode()).digest()
        key = int.from_bytes(digest, "big")
        if key in chosen:
            # the same text split at two places: the choice must not depend on which comes first
            chosen[key] = min(chosen[key], sample, key=lambda same_text: len(same_text.prompt))
        elif digest not in seen:
            chosen[key] = sample
            heapq.heappush(largest_first, -key)
            if size is not None and len(largest_first) > size:
                del chosen[-heapq.heappop(largest_first)]
        repeated += digest in seen
        seen.add(digest)
    return tuple(chosen[key] for key in sorted(chosen)), len(seen), repeated
