"""LiteRT computes what torch computes with the weights that are written, for models of every family."""

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
from support.product import Run, States, open_torch_runner, run_parity
from support.variations import VARIATIONS, micro_config

from converters.litert.bundle import BUNDLE
from converters.litert.format import LitertFormat
from seap_export.errors import ArtifactError, UsageError
from seap_export.families import model_spec
from validation.runtimes.litert_runner import LitertRunner, open_litert
from validation.runtimes.runner import Bounded, Opening

pytestmark = pytest.mark.needs("litert")
Logits = Callable[..., list[np.ndarray]]
#: One for each thing that the program does in another way; `make test-all` adds the other families.
FEW = (
    "qwen3-biases", "gemma2-all", "gemma3-all", "gptj-all", "gpt2-tied", "opt-all", "cohere2-all", "olmo2-all",
    "granite-all", "hunyuan-all",
)  # fmt: skip
KNOWN = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.full)
    for name in RICHEST
    if LitertFormat("fp32").refusal(model_spec(micro_config(**VARIATIONS[name])), Path()) is None
]


def written(folder: Path, variation: str, precision: str = "fp32", **values: Any) -> WrittenModel:
    return WrittenModel.of(LitertFormat(precision), write_pruned_micro_model(folder / "hf", variation, **values))


@pytest.mark.parametrize("variation", KNOWN)
def test_equals_torch(tmp_path: Path, variation: str, check_rows: Callable[..., None]) -> None:
    made = written(tmp_path, variation)
    check_rows(LitertRunner, made.source, made.folder)


def test_int8_is_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], exact_and_rounded: Callable[..., Any]
) -> None:
    made = written(tmp_path, "qwen3-biases", "int8")
    prompt, (exact, rounded) = prompts[-1], exact_and_rounded(made)
    in_float, as_it_is = (
        LitertRunner(made.folder, in_float=in_float, all_logits=True).prefill(np.array([prompt]), [len(prompt)])[0]
        for in_float in (True, False)
    )
    assert np.abs(in_float - exact).max() <= 1e-3
    assert np.abs(as_it_is - rounded).mean() < 0.2 * np.abs(as_it_is - exact).mean()


def test_keys_and_values_are_those_of_torch(tmp_path: Path, prompts: list[list[int]]) -> None:
    made = written(tmp_path, "llama-biases")
    runner, prompt = LitertRunner(made.folder), prompts[-1]
    runner.prefill(np.array([prompt]), [len(prompt)])
    wanted: list[States] = []
    with open_torch_runner(made.source, ONE_THREAD) as reference:
        list(reference.run([Run([prompt], 1)], lambda index, states: wanted.append(states)))
    for layer, truth in zip(runner.cache(0), wanted, strict=True):
        for state, whole in truth.items():
            assert layer[state].shape == whole.shape
            assert np.abs(layer[state] - whole).max() <= 1e-3


@pytest.mark.parametrize("precision", LitertFormat.precisions)
def test_parity_tells_rounding_from_errors(tmp_path: Path, precision: str) -> None:
    made = written(tmp_path, "qwen3-biases", precision)
    texts = ["the cat", "a dog ran home"]
    report = run_parity(made.source, made.folder, texts, runtime="litert", decode_steps=4, long_tokens=40)
    assert report.passed, report.summary()


def test_the_end_of_the_cache_is_reached_but_not_passed(tmp_path: Path, torch_logits: Logits) -> None:
    made = written(tmp_path, "llama-gqa", max_position_embeddings=24)
    runner, ids = LitertRunner(made.folder), [3 + index % 7 for index in range(24)]
    (truth,) = torch_logits(made.source, [ids])
    assert np.abs(runner.prefill(np.array([ids]), [24])[0, 0] - truth[-1]).max() <= 1e-3
    with pytest.raises(UsageError, match="holds at most 24 tokens"):
        runner.step([3])
    assert isinstance(runner, Bounded)
    assert runner.context_length == 24


def test_it_is_timed_and_served(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa", "int8").folder
    runner = open_litert(folder, Opening(ONE_THREAD, "served"))
    assert len(runner.timed([3, 4, 5], 4).steps_s) == 4
    runner.close()


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    path = folder / BUNDLE
    whole = path.read_bytes()
    at = whole.index(b"TFL3")
    path.write_bytes(whole[:at] + b"TFLX" + whole[at + 4 :])
    with pytest.raises(ArtifactError, match="LiteRT cannot load it"):
        LitertRunner(folder)
