"""Any exporter's graphs in one process: numpy arrays in and out, compared, then timed in turn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError
from seap_export.runtime.session import open_session
from validation.speed.measure import Timing

#: Waiting threads spin for some milliseconds.
_PAUSE_SECONDS = 0.05
_PAST = re.compile(r"past(_key_values)?(?=\.\d+\.\w+$)")
_FED = {"input_ids", "attention_mask", "position_ids"}
#: The dimension that GenAI's builder declares instead of the head size, which is only in genai_config.json.
_UNTOLD_SIZE = "kv_cache_dim"


class PlainGraph:
    """One growing row on the CPU: the present of a call is the past of the next one, without IO binding."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_session(path, "cpu", threads)
        inputs = {item.name: item for item in self._session.get_inputs()}
        self._empty_cache = {name: _empty(item, path) for name, item in inputs.items() if _PAST.match(name)}
        strange = inputs.keys() - self._empty_cache.keys() - _FED
        if strange or not self._empty_cache:
            raise ArtifactError(f"{path}: not a decoder with a supported cache: {sorted(strange) or 'no cache'}")
        self._fed = inputs.keys() & _FED
        self._outputs = ["logits", *(_PAST.sub("present", name) for name in self._empty_cache)]
        self._cache, self._length = self._empty_cache, 0

    def prefill(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """Runs a prompt from an empty cache; the logits after it, [vocabulary]."""
        self._cache, self._length = self._empty_cache, 0
        return self._run(prompt)

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends a token; the logits after it, [vocabulary]."""
        return self._run([token])

    def follow(self, prompt: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after the prompt and after each of the tokens that follow it, [1 + tokens, vocabulary]."""
        return np.stack([self.prefill(prompt), *map(self.step, tokens)])

    def _run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        length = self._length + len(tokens)
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(self._length, length)[None],
        }
        fed = {name: feeds[name] for name in self._fed}
        logits, *presents = self._session.run(self._outputs, {**fed, **self._cache})
        self._cache, self._length = dict(zip(self._cache, presents, strict=True)), length
        return logits[0, -1]


def _empty(item: Any, path: Path) -> NDArray[Any]:
    """[1, heads, 0, size] of keys and values, as the graph declares them."""
    shape, dtypes = list(item.shape), {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if shape[3:] == [_UNTOLD_SIZE]:
        shape[3] = json.loads((path.parent / "genai_config.json").read_text("utf-8"))["model"]["decoder"]["head_size"]
    if item.type not in dtypes or len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ArtifactError(f"{path}: its input {item.name} is not a cache with fixed heads in float32 or float16")
    return np.zeros((1, shape[1], 0, shape[3]), dtypes[item.type])


@dataclass(frozen=True)
class Passage:
    """The input of every graph.

    Attributes:
        prompt: Token ids.
        tokens: What the reference finds most likely after the prompt, and after each of these but the last.
        unlikely: A token that the reference finds unlikely everywhere after the prompt.
    """

    prompt: list[int]
    tokens: list[int]
    unlikely: int


@dataclass(frozen=True)
class Result:
    """The largest difference of a logit, the share of tokens that are the same, and times."""

    max_abs: float
    same_tokens: float
    timing: Timing


def choose_passage(reference: Path, threads: int, vocabulary: int, prompt_tokens: int, steps: int) -> Passage:
    """A prompt of random tokens, the same at every call, and the reference graph's predictions after it."""
    graph = PlainGraph(reference, threads)
    prompt = np.random.default_rng(0).integers(0, vocabulary, prompt_tokens).tolist()
    logits = [graph.prefill(prompt)]
    for _ in range(steps):
        logits.append(graph.step(int(logits[-1].argmax())))
    return Passage(prompt, [int(each.argmax()) for each in logits], int(np.max(logits, axis=0).argmin()))


def compare(
    graphs: Mapping[str, Path], reference: Path, passage: Passage, *, threads: int, rounds: int, is_exact: bool
) -> dict[str, Result]:
    """Compares all graphs with the reference, then opens each once a round, alone, and runs the passage twice.

    Of the two runs the second counts. The location of a session's memory makes it faster or slower by up to a tenth
    for as long as it is open.

    Raises:
        ArtifactError: A graph cannot be run; or, where all must be exact, it finds another token most likely, or its
            logits are not finite.
    """
    fed = passage.tokens[:-1]
    expected = PlainGraph(reference, threads).follow(passage.prompt, fed)
    results = {}
    for name, path in graphs.items():
        logits = PlainGraph(path, threads).follow(passage.prompt, fed)
        same, most = float((logits.argmax(1) == passage.tokens).mean()), float(np.abs(logits - expected).max())
        if is_exact and (same < 1 or not np.isfinite(most)):
            raise ArtifactError(
                f"{name} does not compute what the reference does: {same:.0%} of its tokens are the same, a logit "
                f"differs by {most:.1e}"
            )
        results[name] = Result(most, same, Timing())
    for turn in range(rounds):
        for name in rotated(graphs, turn):
            graph = PlainGraph(graphs[name], threads)
            for timing in (Timing(), results[name].timing):
                time.sleep(_PAUSE_SECONDS)
                _time(graph, passage.prompt, fed, timing)
            del graph
    return results


def rotated(names: Iterable[str], turn: int) -> list[str]:
    every = list(names)
    start = turn % len(every)
    return every[start:] + every[:start]


def _time(graph: PlainGraph, prompt: Sequence[int], tokens: Sequence[int], timing: Timing) -> None:
    start = time.perf_counter()
    graph.prefill(prompt)
    timing.prefills.append(time.perf_counter() - start)
    for token in tokens:
        start = time.perf_counter()
        graph.step(token)
        timing.steps.append(time.perf_counter() - start)
