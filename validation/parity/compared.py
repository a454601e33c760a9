"""Runs a parity case in a runtime, and compares its logits and caches with those of the references."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice
from operator import or_

import numpy as np
from numpy.typing import NDArray

from seap_export.model.families import ModelSpec
from seap_export.runtime.decoding.decoder import OnnxDecoder
from validation.array_store import ArrayStore
from validation.metrics import CLEAR_MARGIN, LogitComparison
from validation.parity.caches import CacheComparison
from validation.parity.filled import filling
from validation.parity.profiles import Figure, Noise, Pass
from validation.parity.references import Reference, TokenSequence, behind, sequences_of
from validation.parity.stage import StageResult
from validation.prompts import Case
from validation.runtimes.runner import PER_TOKEN, Fills, Gives, Runner, States, padded

#: What reports add to the name of a case that is decoded as it is served.
SERVED = "served"


@dataclass
class Compared:
    """The comparison of one case in one pass: logits of prefill and decode, and caches if the runtime shows them."""

    case: Case
    run: Pass
    prefill: LogitComparison = field(default_factory=LogitComparison)
    decode: LogitComparison = field(default_factory=LogitComparison)
    caches: CacheComparison | None = None

    def results(
        self, noise: Mapping[TokenSequence, Noise], margin: float = CLEAR_MARGIN
    ) -> tuple[StageResult, StageResult]:
        """Both stages, judged by the limits that this noise of the sequences asks for."""
        of_case = reduce(or_, (noise.get(sequence, Noise()) for sequence in sequences_of(self.case)))
        caches = None if self.caches is None else self.caches.figures()
        prefill, decode = self.prefill.figures(margin), self.decode.figures(margin)
        limits = [self.run.limits_for(of_case, max(figures.tokens, 1)) for figures in (prefill, decode)]
        return (
            StageResult(self.case, self.run, "prefill", prefill, limits[0], of_case),
            StageResult(self.case, self.run, "decode", decode, limits[1], of_case, caches),
        )

    def undecided(self) -> set[Figure]:
        """The figures whose verdict depends on torch's noise: those beyond a default limit that noise may widen.

        A larger margin of clear choices leaves out some tokens, which can change their share unless all agree.
        """
        stages = self.results({})
        exceeded = {limit.figure for stage in stages for limit in stage.limits if stage.exceeds(limit)}
        shares = {stage.figures.clear_top1_agreement for stage in stages} - {None, 1.0}
        is_judged = any(limit.figure == "clear_top1_agreement" for limit in self.run.limits)
        margin: set[Figure] = {"clear_top1_agreement"} if is_judged and shares else set()
        return (exceeded - self.run.given) | margin


def compare(
    case: Case,
    run: Pass,
    references: Mapping[TokenSequence, Reference],
    runner: Runner,
    store: ArrayStore,
    spec: ModelSpec,
) -> Compared:
    """Runs a case as parity does, and compares its logits and caches after as many steps as the pass runs."""
    compared = Compared(case, run)
    truths = [references[sequence] for sequence in sequences_of(case)]
    wanted = [_comparable(store.get(truth.logits), runner.gives) for truth in truths]
    steps = len(case.forced[0])
    ((_, _, last),) = deque(prompt_calls(case, runner, spec, steps), maxlen=1)  # the others need not stay in memory
    gives_last_only = last.shape[1] == 1
    for row, ids in enumerate(case.rows):
        prompt = wanted[row][:-steps]
        count = 1 if gives_last_only else len(prompt)
        computed = _comparable(last[row] if gives_last_only else last[row, : len(ids)][-count:], runner.gives)
        first = len(ids) - count
        following = (*ids[first + 1 :], case.forced[row][0])
        compared.prefill.update(prompt[-count:], computed, row=row, first_position=first, following=following)
    for step, next_ids in enumerate(islice(zip(*case.forced, strict=True), run.steps)):
        _compare_step(compared, step, wanted, _comparable(runner.step(next_ids), runner.gives))
    for row, (ids, truth) in enumerate(zip(case.rows, truths, strict=True)):
        cache = runner.cache(row)
        if cache is not None:
            compared.caches = compared.caches or CacheComparison()
            taken = min(steps, run.steps or steps)
            layers = _layers(truth, len(ids) + taken, store, is_whole=taken == steps)
            compared.caches.update(layers, (behind(states, case.filled) for states in cache), row)
    return compared


def _comparable(logits: NDArray[np.floating], gives: Gives) -> NDArray[np.floating]:
    """Logits as they are; if log-probabilities are compared, they become such: their constant says nothing."""
    if gives == "logits":
        return logits
    largest = logits.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # NaN and infinities stay, and are found
        sums = np.exp((logits - largest).astype(np.float64)).sum(axis=-1, keepdims=True)
        normal: NDArray[np.floating] = ((logits - largest) - np.log(sums)).astype(np.float32)
    return normal


def _compare_step(
    compared: Compared, step: int, wanted: Sequence[NDArray[np.float32]], logits: NDArray[np.floating]
) -> None:
    """Adds the logits [rows, V] of a decode step; `wanted` are those of each row's prompt and all of its steps."""
    for row, forced in enumerate(compared.case.forced):
        expected = wanted[row][len(wanted[row]) - len(forced) + step]
        following = forced[step + 1 : step + 2]
        compared.decode.update(expected[None], logits[row][None], row=row, first_position=step, following=following)


def served_cases(cases: Sequence[Case]) -> list[Case]:
    """The cases that are also decoded as the graph is served: a prompt alone, and a batch."""
    return [next(case for case in cases if (len(case.rows) > 1) == is_batch) for is_batch in (False, True)]


def compare_served(
    case: Case, run: Pass, references: Mapping[TokenSequence, Reference], decoder: OnnxDecoder, store: ArrayStore
) -> tuple[Compared, NDArray[np.float32]]:
    """Compares a case that our own decoder runs, which captures steps as a CUDA graph where the graph allows it.

    Returns:
        The comparison, and the decoder's logits after the prompt and after each step, [rows, 1 + steps, V].
    """
    compared = Compared(replace(case, name=f"{case.name}, {SERVED}"), run)
    wanted = [store.get(references[sequence].logits) for sequence in sequences_of(case)]
    decoding = decoder.start(case.rows, len(case.forced[0]))
    for row, (ids, forced) in enumerate(zip(case.rows, case.forced, strict=True)):
        expected, computed = wanted[row][-len(forced) - 1][None], decoding.logits[row : row + 1]
        compared.prefill.update(expected, computed, row=row, first_position=len(ids) - 1, following=forced[:1])
    noted = [decoding.logits.copy()]  # the next step may overwrite them
    for step, next_ids in enumerate(zip(*case.forced, strict=True)):
        decoding.step(next_ids)
        _compare_step(compared, step, wanted, decoding.logits)
        noted.append(decoding.logits.copy())
    return compared, np.stack(noted, axis=1)


def _layers(reference: Reference, tokens: int, store: ArrayStore, *, is_whole: bool) -> Iterator[tuple[int, States]]:
    """The states after the first tokens of a sequence, with the index of their layer.

    States that do not have a place for each token are included only after the whole sequence.
    """
    for layer, kept in enumerate(reference.cache):
        if not kept:
            continue
        arrays = {state: store.get(stored) for state, stored in kept.items()}
        yield (
            layer,
            {
                state: array[:, :tokens] if state in PER_TOKEN else array
                for state, array in arrays.items()
                if is_whole or state in PER_TOKEN
            },
        )


def prompt_calls(
    case: Case, runner: Runner, spec: ModelSpec, steps: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.floating]]]:
    """Runs the prompts of a case, with room for steps: yields each call's first position, tokens and logits."""
    if case.filled:
        if not isinstance(runner, Fills):
            raise ValueError(f"case {case.name}: {runner.runtime} takes no cache")
        ids = np.array(case.rows, np.int64)
        runner.fill(filling(spec, case.filled), case.filled, ids.shape[1] + steps)
        yield 0, ids, runner.append(ids)
        return
    whole = padded(case.rows)
    width = whole.shape[1] if case.call_tokens is None else case.call_tokens
    for start in range(0, whole.shape[1], width):
        ids = whole[:, start : start + width]
        if start:
            yield start, ids, runner.append(ids)
        else:
            lengths = [min(len(row), width) for row in case.rows]
            yield 0, ids, runner.prefill(ids, lengths, whole.shape[1] - ids.shape[1] + steps)
