"""ExecuTorch computes what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import RICHEST
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.plans import write_pruned_micro_model
from support.product import run_parity
from support.variations import VARIATIONS, micro_config

from converters.executorch.format import ExecutorchFormat
from converters.executorch.stored_program import PROGRAM
from seap_export.errors import ArtifactError, UsageError
from seap_export.families import model_spec
from validation.runtimes.executorch_runner import ExecutorchRunner, open_executorch
from validation.runtimes.runner import Opening

pytestmark = pytest.mark.needs("executorch")
Logits = Callable[..., list[np.ndarray]]
#: One for each thing that the program does in another way; `make test-all` adds the other families.
FEW = (
    "qwen3-biases", "gptj-all", "gpt2-tied", "opt-all", "cohere-all", "olmo2-all", "granite-all", "hunyuan-all",
    "gemma-all", "nemotron-all",
)  # fmt: skip
KNOWN = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.full)
    for name in RICHEST
    if ExecutorchFormat("fp32").refusal(model_spec(micro_config(**VARIATIONS[name])), Path()) is None
]


def written(folder: Path, variation: str, precision: str = "fp32", **values: Any) -> WrittenModel:
    return WrittenModel.of(ExecutorchFormat(precision), write_pruned_micro_model(folder / "hf", variation, **values))


@pytest.mark.parametrize("variation", KNOWN)
def test_equals_torch(tmp_path: Path, variation: str, check_rows: Callable[..., None]) -> None:
    made = written(tmp_path, variation)
    check_rows(ExecutorchRunner, made.source, made.folder)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_levels_are_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], exact_and_rounded: Callable[..., Any], precision: str
) -> None:
    made = written(tmp_path, "qwen3-biases", precision)
    prompt, (exact, rounded) = prompts[-1], exact_and_rounded(made)
    given = ExecutorchRunner(made.folder, all_logits=True).prefill(np.array([prompt]), [len(prompt)])[0]
    assert np.abs(given - rounded).mean() < 0.3 * np.abs(given - exact).mean()


@pytest.mark.parametrize("precision", ExecutorchFormat.precisions)
def test_parity_tells_rounding_from_errors(tmp_path: Path, precision: str) -> None:
    made = written(tmp_path, "qwen3-biases", precision)
    texts = ["the cat", "a dog ran home"]
    report = run_parity(made.source, made.folder, texts, runtime="executorch", decode_steps=4, long_tokens=40)
    assert report.passed, report.summary()


def test_the_end_of_the_cache_is_reached_but_not_passed(tmp_path: Path, torch_logits: Logits) -> None:
    """Over several calls, because one takes 128 tokens."""
    made = written(tmp_path, "llama-gqa", max_position_embeddings=200)
    runner, ids = ExecutorchRunner(made.folder), [3 + index % 7 for index in range(200)]
    (truth,) = torch_logits(made.source, [ids])
    assert np.abs(runner.prefill(np.array([ids]), [200])[0, 0] - truth[-1]).max() <= 1e-3
    with pytest.raises(UsageError, match="holds at most 200 tokens"):
        runner.step([3])


def test_it_is_timed_and_served(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa", "int8").folder
    single = ExecutorchRunner(folder, threads=1).prefill(np.array([[3, 4, 5]]), [3])
    runner = open_executorch(folder, Opening(ONE_THREAD, "served"))
    assert np.array_equal(runner.prefill(np.array([[3, 4, 5]]), [3]), single)
    assert len(runner.timed([3, 4, 5], 4).steps_s) == 4
    runner.close()
    with pytest.raises(ValueError, match="before there is a prompt"):
        open_executorch(folder, Opening(ONE_THREAD, "served")).step([3])


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    path = folder / PROGRAM
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"ETXX" + whole[8:])
    with pytest.raises(ArtifactError, match="ExecuTorch cannot load it"):
        ExecutorchRunner(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        ExecutorchRunner(folder)
