"""LiteRT and ExecuTorch compute what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import RICHEST
from support.formats.written import WrittenModel
from support.plans import write_pruned_micro_model
from support.product import run_parity
from support.variations import VARIATIONS, micro_config

from converters.formats import format_class
from seap_export.errors import UsageError
from seap_export.model.families import model_spec
from validation.runtimes.executorch_runner import ExecutorchRunner
from validation.runtimes.litert_runner import LitertRunner
from validation.runtimes.runner import Bounded

Logits = Callable[..., list[np.ndarray]]
RUNNERS: dict[str, Any] = {"litert": LitertRunner, "executorch": ExecutorchRunner}
#: What CI runs; `make test-all` adds the other families.
FEW = ("qwen3-biases", "gemma2-all")


def known() -> Iterator[Any]:
    for runtime in RUNNERS:
        for name in RICHEST:
            spec = model_spec(micro_config(**VARIATIONS[name]))
            if format_class(runtime)("fp32").refusal(spec, Path()) is None:
                marks = [pytest.mark.needs(runtime), *([] if name in FEW else [pytest.mark.full])]
                yield pytest.param(runtime, name, marks=marks)


def of_each(*cases: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(*case, marks=pytest.mark.needs(case[0])) for case in cases]


def written(folder: Path, runtime: str, variation: str, precision: str = "fp32", **values: Any) -> WrittenModel:
    model = write_pruned_micro_model(folder / "hf", variation, **values)
    return WrittenModel.of(format_class(runtime)(precision), model)


@pytest.mark.parametrize(("runtime", "variation"), known())
def test_equals_torch(tmp_path: Path, runtime: str, variation: str, check_rows: Callable[..., None]) -> None:
    made = written(tmp_path, runtime, variation)
    check_rows(RUNNERS[runtime], made.source, made.folder)


@pytest.mark.needs("litert")
def test_int8_of_litert_is_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], exact_and_rounded: Callable[..., Any]
) -> None:
    made = written(tmp_path, "litert", "qwen3-biases", "int8")
    prompt, (exact, rounded) = prompts[-1], exact_and_rounded(made)
    in_float, as_it_is = (
        LitertRunner(made.folder, in_float=in_float, all_logits=True).prefill(np.array([prompt]), [len(prompt)])[0]
        for in_float in (True, False)
    )
    assert np.abs(in_float - exact).max() <= 1e-3
    assert np.abs(as_it_is - rounded).mean() < 0.2 * np.abs(as_it_is - exact).mean()


@pytest.mark.needs("executorch")
@pytest.mark.parametrize("precision", [pytest.param("int8", marks=pytest.mark.full), "int4"])
def test_levels_of_executorch_are_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], exact_and_rounded: Callable[..., Any], precision: str
) -> None:
    made = written(tmp_path, "executorch", "qwen3-biases", precision)
    prompt, (exact, rounded) = prompts[-1], exact_and_rounded(made)
    given = ExecutorchRunner(made.folder, all_logits=True).prefill(np.array([prompt]), [len(prompt)])[0]
    assert np.abs(given - rounded).mean() < 0.3 * np.abs(given - exact).mean()


@pytest.mark.parametrize(("runtime", "precision"), of_each(*((name, "int8") for name in RUNNERS)))
def test_parity_tells_rounding_from_errors(tmp_path: Path, runtime: str, precision: str) -> None:
    made = written(tmp_path, runtime, "qwen3-biases", precision)
    texts = ["the cat", "a dog ran home"]
    report = run_parity(made.source, made.folder, texts, runtime=runtime, decode_steps=4, long_tokens=40)
    assert report.passed, report.summary()


# a call of ExecuTorch takes 128 tokens
@pytest.mark.parametrize(("runtime", "length"), of_each(("litert", 24), ("executorch", 200)))
def test_the_end_of_the_cache_is_reached_but_not_passed(
    tmp_path: Path, torch_logits: Logits, runtime: str, length: int
) -> None:
    made = written(tmp_path, runtime, "llama-gqa", max_position_embeddings=length)
    runner, ids = RUNNERS[runtime](made.folder), [3 + index % 7 for index in range(length)]
    (truth,) = torch_logits(made.source, [ids])
    assert np.abs(runner.prefill(np.array([ids]), [length])[0, 0] - truth[-1]).max() <= 1e-3
    with pytest.raises(UsageError, match=f"holds at most {length} tokens"):
        runner.step([3])
    assert isinstance(runner, Bounded)
    assert runner.context_length == length
