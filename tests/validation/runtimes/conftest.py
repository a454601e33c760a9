"""What torch computes, for the runners to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
    ids = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    return ids
