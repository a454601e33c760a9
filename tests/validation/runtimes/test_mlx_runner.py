"""mlx-lm computes what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.chosen import FOR_MLX
from support.formats.written import WrittenModel
from support.models import write_source
from support.plans import write_pruned_micro_model

from converters.mlx import MlxFormat
from validation.runtimes.mlx_runner import MlxRunner

pytestmark = pytest.mark.needs("mlx-lm")
Logits = Callable[..., list[np.ndarray]]


def written(folder: Path, variation: str, precision: str = "fp32", *, pruned: bool = True) -> WrittenModel:
    source = (write_pruned_micro_model if pruned else write_source)(folder / "hf", variation)
    return WrittenModel.of(MlxFormat(precision), source)


def alone(runner: MlxRunner, prompt: list[int]) -> np.ndarray:
    logits: np.ndarray = runner.prefill(np.array([prompt]), [len(prompt)])[0]
    return logits


@pytest.mark.parametrize(
    ("variation", "is_pruned"),
    [
        ("llama-gqa", False),
        ("llama-biases", True),
        *(pytest.param(name, True, marks=pytest.mark.full) for name in FOR_MLX),
    ],
)
def test_equals_torch(
    tmp_path: Path, variation: str, is_pruned: bool, prompts: list[list[int]], padded: np.ndarray, torch_logits: Logits
) -> None:
    """Each prompt alone; all in a batch; in parts with a cache; and two rows that go on together."""
    made = written(tmp_path, variation, pruned=is_pruned)
    runner, lengths = MlxRunner(made.folder), list(map(len, prompts))
    batch = runner.prefill(padded, lengths)
    for prompt, row, wanted in zip(prompts, batch, torch_logits(made.source, prompts), strict=True):
        assert np.abs(row[: len(prompt)] - wanted).max() <= 1e-3
        assert np.abs(alone(runner, prompt) - wanted).max() <= 1e-3
    one, other = prompts[-1], prompts[-2]
    (truth,) = torch_logits(made.source, [one], [6])
    parts = [alone(runner, one[:6]), *(runner.step([token]) for token in one[6:])]
    assert np.abs(np.concatenate(parts) - truth).max() <= 1e-3
    truths = torch_logits(made.source, [one, other], [9, 5])
    runner.prefill(np.array([one[:9], [*other[:5], 0, 0, 0, 0]]), [9, 5])
    for index in range(28):
        both = runner.step([one[9 + index], other[5 + index]])
        assert np.abs(both - np.stack([truths[0][9 + index], truths[1][5 + index]])).max() <= 1e-3


@pytest.mark.parametrize(
    ("variation", "precision", "rounding"),
    [
        ("qwen3-biases", "4bit", 0.03),
        pytest.param("gemma2-all", "bf16", 0.2, marks=pytest.mark.full),
        pytest.param("lfm2-all", "8bit", 0.04, marks=pytest.mark.full),
        pytest.param("gemma4-all", "fp16", 0.03, marks=pytest.mark.full),
    ],
)
def test_equals_torch_with_the_weights_that_are_written(
    tmp_path: Path, variation: str, precision: str, rounding: float, prompts: list[list[int]], torch_logits: Logits
) -> None:
    """To rounding in float32, and to that of activations in the dtype of the folder."""
    made = written(tmp_path, variation, precision)
    exact, runner = MlxRunner(made.folder, in_float32=True), MlxRunner(made.folder)
    wanted = torch_logits(made.with_stored_weights(tmp_path / "again"), prompts[-3:])
    for prompt, truth in zip(prompts[-3:], wanted, strict=True):
        assert np.abs(alone(exact, prompt) - truth).max() <= 1e-3
        error = alone(runner, prompt) - truth
        assert np.sqrt(np.square(error).mean()) <= rounding * np.sqrt(np.square(truth).mean())


def test_the_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    (folder / "modeling_mlx.py").write_text("raise SystemExit('run')")
    MlxRunner(folder).close()
