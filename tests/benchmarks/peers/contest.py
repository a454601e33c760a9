"""Runs graphs in one process: first compares their predictions, then times them in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks.peers.sessions import PlainGraph

from seap_export.errors import ArtifactError
from validation.speed.measure import Timing

#: Waiting threads spin for some milliseconds.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Passage:
    """The input of every graph: a prompt, and the tokens that the reference finds most likely, one after the other.

    Attributes:
        prompt: Token ids.
        tokens: The token after the prompt, then one after each decode step: one more than there are steps.
        unlikely: A token that the reference finds unlikely everywhere after the prompt.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    unlikely: int

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens that the decode steps read; the last one is only predicted."""
        return self.tokens[:-1]


@dataclass(frozen=True)
class Agreement:
    """Compares a graph with the reference, over the logits after the prompt and after each decode step.

    Attributes:
        max_abs: Largest difference of a logit.
        same_tokens: Share of the positions whose most likely token is the same.
    """

    max_abs: float
    same_tokens: float


@dataclass(frozen=True)
class Result:
    """The results of one graph."""

    agreement: Agreement
    timing: Timing


def choose_passage(reference: Path, threads: int, vocabulary: int, prompt_tokens: int, steps: int) -> Passage:
    """A prompt of random tokens, the same at every call, and the reference graph's predictions after it."""
    graph = PlainGraph(reference, threads)
    prompt = np.random.default_rng(0).integers(0, vocabulary, prompt_tokens).tolist()
    tokens = graph.continue_greedily(prompt, steps)
    unlikely = graph.follow(prompt, tokens[:-1]).max(axis=0).argmin()
    return Passage(tuple(prompt), tuple(tokens), int(unlikely))


def compare(
    graphs: Mapping[str, Path], reference: Path, passage: Passage, *, threads: int, rounds: int, is_exact: bool
) -> dict[str, Result]:
    """Runs the graphs in turn, in this process, on the same tokens.

    Args:
        graphs: Graphs by name.
        reference: The graph whose logits the others' are compared with.
        passage: The input.
        threads: Threads of each session.
        rounds: Counted runs of each graph.
        is_exact: Whether every graph must find the passage's tokens most likely; if not, only their share is reported.

    Raises:
        ArtifactError: A graph cannot be run, or computes something else.
    """
    agreements = _agreements(graphs, reference, passage, threads)
    if is_exact:
        refuse_disagreement(agreements)
    timings = take_times({name: partial(PlainGraph, path, threads) for name, path in graphs.items()}, passage, rounds)
    return {name: Result(agreements[name], timings[name]) for name in graphs}


def _agreements(graphs: Mapping[str, Path], reference: Path, passage: Passage, threads: int) -> dict[str, Agreement]:
    expected = PlainGraph(reference, threads).follow(passage.prompt, passage.fed)
    agreements = {}
    for name, path in graphs.items():
        logits = PlainGraph(path, threads).follow(passage.prompt, passage.fed)
        same = logits.argmax(axis=1) == np.array(passage.tokens)
        agreements[name] = Agreement(float(np.abs(logits - expected).max()), float(same.mean()))
    return agreements


def refuse_disagreement(agreements: Mapping[str, Agreement]) -> None:
    """Refuses graphs that compute something else.

    Raises:
        ArtifactError: A graph finds another token most likely, or its logits are not finite.
    """
    for name, agreement in agreements.items():
        if agreement.same_tokens < 1 or not np.isfinite(agreement.max_abs):
            raise ArtifactError(
                f"{name} does not compute what the reference does: {agreement.same_tokens:.0%} of its tokens are the "
                f"same, a logit differs by {agreement.max_abs:.1e}"
            )


def rotated(names: Iterable[str], turn: int) -> list[str]:
    """The names, rotated in each turn, so that the order varies."""
    every = list(names)
    start = turn % len(every)
    return every[start:] + every[:start]


def take_times(openers: Mapping[str, Callable[[], PlainGraph]], passage: Passage, rounds: int) -> dict[str, Timing]:
    """Opens every graph once per round, alone, and runs the passage twice, of which the second run counts.

    The location of a session's memory makes it faster or slower by up to a tenth for as long as it is open.
    """
    timings = {name: Timing() for name in openers}
    for turn in range(rounds):
        for name in rotated(openers, turn):
            graph = openers[name]()
            for timing in (Timing(), timings[name]):
                time.sleep(_PAUSE_SECONDS)
                _time(graph, passage.prompt, passage.fed, timing)
            del graph
    return timings


def _time(graph: PlainGraph, prompt: Sequence[int], tokens: Sequence[int], timing: Timing) -> None:
    start = time.perf_counter()
    graph.prefill(prompt)
    timing.prefills.append(time.perf_counter() - start)
    for token in tokens:
        start = time.perf_counter()
        graph.step(token)
        timing.steps.append(time.perf_counter() - start)
