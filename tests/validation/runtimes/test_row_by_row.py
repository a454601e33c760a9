"""LiteRT and ExecuTorch compute what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import RICHEST
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.plans import write_pruned_micro_model
from support.product import Run, choose_precision, open_torch_runner, round_activations, run_parity
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


@pytest.mark.parametrize(
    ("runtime", "precision", "share"),
    of_each(("litert", "int8", 0.2), ("executorch", "int4", 0.3), ("executorch", "int8", 0.3)),
)
def test_rounded_weights_are_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], runtime: str, precision: str, share: float
) -> None:
    made, prompt = written(tmp_path, runtime, "qwen3-biases", precision), prompts[-1]
    run, how = Run([prompt], len(prompt)), choose_precision("int8").quantization
    assert how is not None
    with open_torch_runner(made.with_stored_weights(tmp_path / "again"), ONE_THREAD) as torch_runner:
        (exact,) = torch_runner.run([run])
        round_activations(torch_runner.model, torch_runner.spec, how, whole_rows=True)
        (rounded,) = torch_runner.run([run])

    def logits(**options: Any) -> np.ndarray:
        runner = RUNNERS[runtime](made.folder, all_logits=True, **options)
        given: np.ndarray = runner.prefill(np.array([prompt]), [len(prompt)])[0]
        return given

    if runtime == "litert":
        assert np.abs(logits(in_float=True) - exact).max() <= 1e-3
    given = logits()
    assert np.abs(given - rounded).mean() < share * np.abs(given - exact).mean()
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
