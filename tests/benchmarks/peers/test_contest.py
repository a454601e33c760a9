"""Graphs run in turn on the same tokens; one that computes something else is refused. No time is asserted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers.contest import (
    Agreement,
    Passage,
    choose_passage,
    compare,
    refuse_disagreement,
    rotated,
    take_times,
)

from seap_export.errors import ArtifactError

STEPS = 3


@pytest.fixture(scope="module")
def passage(graphs: dict[str, Path]) -> Passage:
    return choose_passage(graphs["ours"], 1, vocabulary=96, prompt_tokens=12, steps=STEPS)


def _compare(graphs: dict[str, Path], names: tuple[str, ...], passage: Passage, is_exact: bool) -> Any:
    chosen = {name: graphs[name] for name in names}
    return compare(chosen, graphs["ours"], passage, threads=1, rounds=2, is_exact=is_exact)


def test_the_passage_is_the_same_at_every_call(graphs: dict[str, Path], passage: Passage) -> None:
    assert choose_passage(graphs["standard"], 1, vocabulary=96, prompt_tokens=12, steps=STEPS) == passage
    assert (len(passage.prompt), len(passage.tokens)) == (12, STEPS + 1)
    assert passage.fed == passage.tokens[:STEPS]
    assert passage.unlikely not in passage.tokens


def test_graphs_that_agree_are_timed(graphs: dict[str, Path], passage: Passage) -> None:
    results = _compare(graphs, ("ours", "last", "standard"), passage, is_exact=True)
    assert results["ours"].agreement == Agreement(0.0, 1.0)
    assert 0 < results["standard"].agreement.max_abs < 1e-3
    for result in results.values():
        assert (len(result.timing.prefills), len(result.timing.steps)) == (2, 2 * STEPS)


def test_a_graph_that_says_something_else_is_refused(graphs: dict[str, Path], passage: Passage) -> None:
    with pytest.raises(ArtifactError, match=r"^wrong does not compute what the reference does: .*% of its tokens"):
        _compare(graphs, ("ours", "wrong"), passage, is_exact=True)
    assert _compare(graphs, ("wrong",), passage, is_exact=False)["wrong"].agreement.same_tokens < 1


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ArtifactError, match="a logit differs by nan"):
        refuse_disagreement({"graph": Agreement(float("nan"), 1.0)})


def test_each_turn_begins_with_another_one() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_each_graph_is_opened_anew_each_round_and_the_warm_up_is_not_counted() -> None:
    log: list[tuple[str, str]] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name
            log.append((name, "opened"))

        def prefill(self, prompt: Any) -> None:
            log.append((self.name, f"prefill {prompt}"))

        def step(self, token: int) -> None:
            log.append((self.name, f"step {token}"))

    openers: dict[str, Any] = {name: partial(Recorder, name) for name in ("one", "two")}
    timings = take_times(openers, Passage((4, 5), (6, 7, 8), 0), rounds=2)
    reading = ["prefill (4, 5)", "step 6", "step 7"]
    assert log == [(name, what) for name in ("one", "two", "two", "one") for what in ("opened", *reading, *reading)]
    assert {name: (len(timing.prefills), len(timing.steps)) for name, timing in timings.items()} == {
        "one": (2, 4),
        "two": (2, 4),
    }
