"""Padding on the left changes nothing: each row of a batch computes what it computes alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from support.chosen import VARIED, of_each_kind
from support.execution import ONE_THREAD
from support.models import write_micro_model
from support.product import Compute, padded, read_spec
from support.variations import VARIATIONS

from validation.execution import Execution
from validation.runtimes.pytorch.torch_batch import TorchBatch
from validation.runtimes.pytorch.torch_runner import open_torch_runner

Logits = Callable[..., list[np.ndarray]]
#: Longrope rotates a whole batch as its longest row, so rows that get longer than 16 tokens run alone.
SHORT = 7


def padded_values(name: str) -> dict[str, Any]:
    """A variation without what transformers computes otherwise in a row that is padded on the left."""
    return {**VARIATIONS[name], **({"conv_bias": False} if "lfm" in name else {})}


@pytest.mark.parametrize("name", VARIED)
def test_prompts_and_steps_of_a_batch(
    name: str, tmp_path: Path, prompts: list[list[int]], torch_logits: Logits
) -> None:
    model = write_micro_model(tmp_path / "m", **padded_values(name))
    rows = SHORT if "phi3" in name else len(prompts)
    lengths = [len(prompt) for prompt in prompts[:rows]]
    kept = [row for row in range(rows) if row % 3]  # others have ended, the longest among them
    with open_torch_runner(model, ONE_THREAD) as runner, runner.head():
        batch = TorchBatch(runner)
        logits = [batch.prefill(padded(prompts[:rows]), lengths)[:, 0], batch.step([5] * rows)]
        batch.keep(kept)
        logits.append(batch.step([7] * len(kept)))
        alone = batch.prefill(np.array(prompts[1:2]), lengths[1:2])
        batch.close()
    texts = [[*prompt, 5, 7] for prompt in prompts[:rows]]
    wanted = np.stack([alone[-3:] for alone in torch_logits(model, texts, lengths)])
    assert logits[0].shape == (rows, wanted.shape[2])
    assert np.abs(np.stack(logits[:2], 1) - wanted[:, :2]).max() <= 1e-3
    assert np.abs(logits[2] - wanted[kept, 2]).max() <= 1e-3
    assert np.abs(alone[0, 0] - wanted[1, 0]).max() <= 1e-3


@pytest.mark.parametrize("name", of_each_kind())
def test_what_all_rows_begin_with_runs_once(
    name: str, tmp_path: Path, prompts: list[list[int]], torch_logits: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_micro_model(tmp_path / "m", **padded_values(name))
    rows, common = (4, 9) if "phi3" in name else (12, 19)
    texts = [[*prompts[-1][:common], *tokens] for tokens in prompts[:rows]]
    lengths, steps = [len(text) for text in texts], ([5] * rows, [7] * rows)
    with open_torch_runner(model, ONE_THREAD) as runner, runner.head():
        extend = Mock(wraps=runner.extend)
        monkeypatch.setattr(runner, "extend", extend)
        batch = TorchBatch(runner)
        logits = np.stack([batch.prefill(padded(texts), lengths)[:, 0], *map(batch.step, steps)], 1)
        batch.close()
    longest = max(lengths)
    can_rewind = all(sublayer.can_rewind for sublayer in read_spec(model).sublayers)
    prompt = [(rows, longest)] if not can_rewind else [(1, common), (rows, longest - common)]
    assert _shapes(extend) == [*prompt, (rows, 1), (rows, 1)]
    wanted = [tokens[-3:] for tokens in torch_logits(model, [[*text, 5, 7] for text in texts], lengths)]
    assert np.abs(logits - np.stack(wanted)).max() <= 1e-3


@pytest.mark.parametrize(
    ("texts", "common"),
    [
        ([[1] * 12, [1] * 12], 11),  # one token of each row is left, whose logits are wanted
        ([[1] * 9, [*[1] * 8, 2, 3]], 8),
        ([[1] * 8, [1] * 20], 0),
        ([[*[1] * 7, 2, 2, 2], [1] * 10], 0),
        ([[1] * 30], 0),
    ],
)
def test_a_short_beginning_takes_no_pass_of_its_own(
    texts: list[list[int]], common: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = write_micro_model(tmp_path / "m", model_type="llama"), padded(texts)
    with open_torch_runner(model, ONE_THREAD) as runner, runner.head():
        extend = Mock(wraps=runner.extend)
        monkeypatch.setattr(runner, "extend", extend)
        TorchBatch(runner).prefill(ids, [len(text) for text in texts])
    assert _shapes(extend) == ([(1, common)] if common else []) + [(len(texts), ids.shape[1] - common)]


def test_a_model_that_does_not_fit_is_read_for_every_step(tmp_path: Path, prompts: list[list[int]]) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama")
    lengths = [len(prompt) for prompt in prompts]
    logits = []
    for compute in (Compute(), Compute(memory=1)):
        with open_torch_runner(model, Execution(threads=1, compute=compute)) as runner, runner.head():
            batch = TorchBatch(runner)
            logits.append((batch.prefill(padded(prompts), lengths), batch.step([5] * len(lengths))))
    for roomy, tight in zip(*logits, strict=True):
        assert np.array_equal(roomy, tight)


def _shapes(extend: Mock) -> list[tuple[int, ...]]:
    """The shape of the tokens in each call."""
    return [tuple(call.args[1].shape) for call in extend.call_args_list]
