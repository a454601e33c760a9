"""mlx-lm computes what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.chosen import FOR_MLX
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.models import write_source
from support.plans import write_pruned_micro_model

from converters.mlx import MlxFormat
from seap_export.common.json_file import read_json
from validation.runtimes.mlx_runner import MlxRunner, open_mlx
from validation.runtimes.runner import Opening

Logits = Callable[..., list[np.ndarray]]
PRECISIONS = ("fp16", "bf16", "8bit", "4bit")


def written(folder: Path, variation: str, precision: str = "fp32", *, pruned: bool = True) -> WrittenModel:
    source = (write_pruned_micro_model if pruned else write_source)(folder / "hf", variation)
    return WrittenModel.of(MlxFormat(precision), source)


def largest(pairs: object) -> float:
    """The largest difference of logits within pairs of arrays."""
    return max(float(np.abs(ours - wanted).max()) for ours, wanted in pairs)  # type: ignore[attr-defined]


@pytest.mark.needs("mlx-lm")
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
    runner = MlxRunner(made.folder)
    wanted, lengths = torch_logits(made.source, prompts), list(map(len, prompts))
    alone = [runner.prefill(np.array([prompt]), [len(prompt)])[0] for prompt in prompts]
    assert largest(zip(alone, wanted, strict=True)) <= 1e-3
    batch = runner.prefill(padded, lengths)
    assert largest((row[:length], whole) for row, length, whole in zip(batch, lengths, wanted, strict=True)) <= 1e-3
    one, other = prompts[-1], prompts[-2]
    (truth,) = torch_logits(made.source, [one], [6])
    parts = [runner.prefill(np.array([one[:6]]), [6])[0], *(runner.step([token]) for token in one[6:])]
    assert np.abs(np.concatenate(parts) - truth).max() <= 1e-3
    truths = torch_logits(made.source, [one, other], [9, 5])
    runner.prefill(np.array([one[:9], [*other[:5], 0, 0, 0, 0]]), [9, 5])
    for index in range(28):
        first, second = runner.step([one[9 + index], other[5 + index]])
        assert largest([(first, truths[0][9 + index]), (second, truths[1][5 + index])]) <= 1e-3


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize(
    ("variation", "precision"),
    [
        ("qwen3-biases", "4bit"),
        *(
            pytest.param(name, PRECISIONS[index % len(PRECISIONS)], marks=pytest.mark.full)
            for index, name in enumerate(FOR_MLX)
        ),
    ],
)
def test_equals_torch_with_the_weights_that_are_written(
    tmp_path: Path, variation: str, precision: str, prompts: list[list[int]], torch_logits: Logits
) -> None:
    made = written(tmp_path, variation, precision)
    wanted = torch_logits(made.with_stored_weights(tmp_path / "again"), prompts[-3:])
    assert_equals_torch(made.folder, precision, prompts[-3:], wanted)


def assert_equals_torch(folder: Path, precision: str, prompts: list[list[int]], wanted: list[np.ndarray]) -> None:
    """To rounding in float32, and to that of activations in the dtype of the folder."""
    exact = MlxRunner(folder, in_float32=True)
    has_experts = any("experts" in layer for layer in read_json(folder / "config.json")["decoder"]["layers"])
    runner = open_mlx(folder, Opening(ONE_THREAD)) if has_experts else MlxRunner(folder)
    for prompt, truth in zip(prompts, wanted, strict=True):
        assert np.abs(exact.prefill(np.array([prompt]), [len(prompt)])[0] - truth).max() <= 1e-3
        error = runner.prefill(np.array([prompt]), [len(prompt)])[0] - truth
        rounding = {"bf16": 0.2, "8bit": 0.04}.get(precision, 0.03)
        assert np.sqrt(np.square(error).mean()) <= rounding * np.sqrt(np.square(truth).mean())


@pytest.mark.needs("mlx-lm")
def test_the_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    (folder / "modeling_mlx.py").write_text("raise SystemExit('run')")
    MlxRunner(folder).close()
