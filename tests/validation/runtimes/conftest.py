"""What torch computes, for the runners to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.execution import ONE_THREAD

Prompts = Sequence[Sequence[int]]


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """16 prompts of different lengths, shorter and longer than the window of 5 and the switch of longrope at 16."""
    chance = np.random.default_rng(1)
    lengths = (1, 2, 3, 5, 7, 9, 11, 13, 17, 19, 23, 24, 28, 30, 33, 38)
    return [chance.integers(3, 96, length).tolist() for length in lengths]


@pytest.fixture(scope="session")
def torch_logits() -> Callable[..., list[np.ndarray]]:
    """`torch_logits(folder, prompts)`: the logits of each prompt alone, [tokens, vocabulary].

    With `first`, its first so many tokens run together and the others one by one, which matters to longrope.
    """
    from validation.runtimes.pytorch.torch_runner import Run, open_torch_runner

    def compute(folder: Path, prompts: Prompts, first: Sequence[int] | None = None) -> list[np.ndarray]:
        whole = [len(prompt) for prompt in prompts]
        parts = [
            [prompt[:start], *([token] for token in prompt[start:])]
            for prompt, start in zip(prompts, first or whole, strict=True)
        ]
        with open_torch_runner(folder, ONE_THREAD) as runner:
            return list(runner.run([Run(part, length) for part, length in zip(parts, whole, strict=True)]))

    return compute


@pytest.fixture(scope="session")
def padded(prompts: Prompts) -> np.ndarray:
    """The prompts as one batch, padded on the right."""
    from support.product import padded

    return padded(prompts)


@pytest.fixture
def check_rows(prompts: Prompts, torch_logits: Callable[..., list[np.ndarray]]) -> Callable[..., None]:
    """`check_rows(runner, model, folder)`: a runner of one row at a time computes what torch does.

    All tokens one by one; a prompt at once, and steps; tokens that are appended; two rows in turn.
    """

    def check(runner_of: Callable[..., Any], model: Path, folder: Path) -> None:
        long, short = prompts[-1], prompts[5]
        truth, other = torch_logits(model, [long, short])
        single = runner_of(folder, all_logits=True)
        assert np.abs(single.prefill(np.array([long]), [len(long)])[0] - truth).max() <= 1e-3
        runner = runner_of(folder)
        rows = np.array([long[:30], [*short[:5], *[0] * 25]])
        computed = [runner.prefill(rows, [30, 5])[:, 0]]
        computed += [runner.step([long[30 + step], short[5 + step]]) for step in range(4)]
        for step, (first, second) in enumerate(computed):
            assert np.abs(first - truth[29 + step]).max() <= 1e-3
            assert np.abs(second - other[4 + step]).max() <= 1e-3
        runner.prefill(np.array([long[:6]]), [6])
        assert np.abs(runner.append(np.array([long[6:]]))[0, 0] - truth[-1]).max() <= 1e-3

    return check
