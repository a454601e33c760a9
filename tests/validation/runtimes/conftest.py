"""What torch computes, for the runners to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.execution import ONE_THREAD
from support.product import Run, open_torch_runner, round_activations

from converters.format import StoredWeights

Prompts = Sequence[Sequence[int]]


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """16 prompts of different lengths, shorter and longer than the window of 5 and the switch of longrope at 16."""
    chance = np.random.default_rng(1)
    lengths = (1, 2, 3, 5, 7, 9, 11, 13, 17, 19, 23, 24, 28, 30, 33, 38)
    return [chance.integers(3, 96, length).tolist() for length in lengths]


@pytest.fixture(scope="session")
def torch_logits() -> Callable[..., list[np.ndarray]]:
    """`torch_logits(folder, prompts, first)`: the logits of each prompt alone, whose first tokens run together."""

    def compute(folder: Path, prompts: Prompts, first: Sequence[int] | None = None) -> list[np.ndarray]:
        whole = [len(prompt) for prompt in prompts]
        parts = [
            [prompt[:start], *([token] for token in prompt[start:])]
            for prompt, start in zip(prompts, first or whole, strict=True)
        ]
        with open_torch_runner(folder, ONE_THREAD) as runner:
            return list(runner.run([Run(part, length) for part, length in zip(parts, whole, strict=True)]))

    return compute


class TwoRows:
    """Two rows of 20 and of 4 tokens, padded on the right, and 4 steps: their logits, and the states they keep."""

    def __init__(self) -> None:
        self.lengths, self.steps = (20, 4), 4  # the second gets longer than the window
        self.texts = np.random.default_rng(0).integers(3, 90, (2, 20))
        self.further = [[5, 9, 13, 17], [7, 11, 15, 19]]

    def of_torch(self, folder: Path, stored: StoredWeights | None = None, how: Any = None) -> list[np.ndarray]:
        """Each row alone, with the weights that are `stored`, and activations rounded as `how` says."""
        states: list[list[np.ndarray]] = [[], []]
        with open_torch_runner(folder, ONE_THREAD, stored=stored) as runner:
            if how is not None:
                round_activations(runner.model, runner.spec, how)
            runs = [
                Run([text[:length].tolist(), *([token] for token in more)], length + self.steps)
                for text, length, more in zip(self.texts, self.lengths, self.further, strict=True)
            ]
            logits = list(runner.run(runs, lambda row, kept: states[row].extend(kept.values())))
        return [*logits, *states[0], *states[1]]

    def of(self, runner: Any, *, keeps: bool = False) -> list[np.ndarray]:
        """What a runner computes of both together, and with `keeps` its states."""
        first = runner.prefill(self.texts, self.lengths, room=self.steps)
        steps = [runner.step(list(tokens)) for tokens in zip(*self.further, strict=True)]
        logits = [
            np.concatenate([first[row, :length], [step[row] for step in steps]])
            for row, length in enumerate(self.lengths)
        ]
        states = (
            [state for row in range(2) for layer in runner.cache(row) for state in layer.values()] if keeps else []
        )
        return [*logits, *states]

    def in_calls(self, runner: Any, folder: Path) -> float:
        """The largest difference where the first row's text is not one call; longrope's factors depend on calls."""
        text = [*self.texts[0].tolist(), *self.further[0]]
        parts = [text[:6], text[6:]]
        with open_torch_runner(folder, ONE_THREAD) as torch_runner:
            (wanted,) = torch_runner.run([Run(parts, len(text))])
        calls = [runner.prefill(np.array(parts[:1]), [6], room=len(parts[1])), runner.append(np.array(parts[1:]))]
        return self.largest([np.concatenate([call[0] for call in calls])], [wanted])

    def largest(self, computed: list[np.ndarray], wanted: list[np.ndarray]) -> float:
        """The largest difference of a logit, or of a number of a state."""
        pairs = list(zip(computed, wanted[: len(computed)], strict=True))
        assert all(one.shape == other.shape for one, other in pairs)
        return max(float(np.abs(one - other).max()) for one, other in pairs)


@pytest.fixture(scope="session")
def two_rows() -> TwoRows:
    return TwoRows()
