"""Greedy decoding with runners that can do more, or less, than others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from support.product import load_tokenizer

from seap_export.corpus import AnswerRule
from validation.generation.greedy import Ends, continue_prompts
from validation.runtimes.runner import Logits


class _Counting:
    """A runner whose rows go on with the token after their last one, as far as 9."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        return self._logits([int(row[length - 1]) for row, length in zip(input_ids, lengths, strict=True)])[:, None]

    def step(self, next_ids: Sequence[int]) -> Logits:
        self.steps.append(list(next_ids))
        return self._logits(next_ids)

    def _logits(self, last: Sequence[int]) -> Logits:
        return np.eye(10, dtype=np.float32)[[min(token + 1, 9) for token in last]]


class _Keeping(_Counting):
    def keep(self, rows: Sequence[int]) -> None:
        self.steps.append([-1, *rows])


@pytest.mark.parametrize(
    ("runner", "steps"),
    [
        (_Counting(), [[5, 4, 1], [5, 5, 2], [5, 5, 3], [5, 5, 4], [5, 5, 5]]),
        (_Keeping(), [[5, 4, 1], [-1, 1, 2], [5, 2], [-1, 1], [3], [4], [5]]),
    ],
)
def test_rows_that_have_ended_are_left_out_where_a_runner_can(
    runner: _Counting, steps: list[list[int]], model: Path
) -> None:
    ends, tokenizer = Ends(frozenset({6}), AnswerRule("(cat)"), 8, 64, 64), load_tokenizer(model / "hf")
    steps_before: list[int] = []

    def done(row: object) -> None:
        steps_before.append(len(runner.steps))

    completions = continue_prompts(cast(Any, runner), tokenizer, [[2, 4], [2, 3], [2, 0]], ends, 3, done)
    assert [completion.tokens for completion in completions] == [1, 2, 5]
    assert runner.steps == steps
    assert steps_before == [len(steps)] * 3  # or the time left would follow from the shortest


def test_what_a_runtime_generates_by_itself_is_cut(model: Path) -> None:
    """It goes on past the end of texts, and past what was asked for."""
    ends = Ends(frozenset({2}), AnswerRule("(cat)", stop=(" dog",)), 4, 64, 64)
    tokenizer = load_tokenizer(model / "hf")
    the, cat, dog = map(tokenizer.token_to_id, ("the", "cat", "dog"))
    texts = [[cat, 2, cat], [the, dog, cat], [cat] * 9]
    runner: Any = SimpleNamespace(follow=lambda prompts, steps: [list(texts[prompt[0]]) for prompt in prompts])
    done: list[object] = []
    completions = continue_prompts(runner, tokenizer, [[0], [1], [2]], ends, 2, done.append)
    assert len(done) == 3
    assert [(completion.text.strip(), completion.tokens, completion.is_stopped) for completion in completions] == [
        ("cat", 1, True), ("the", 2, True), ("cat cat cat cat", 4, False),
    ]  # fmt: skip
