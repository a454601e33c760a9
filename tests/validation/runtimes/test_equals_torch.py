"""Runtimes compute what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import FOR_MLX, JOINT, RICHEST
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.models import write_source
from support.product import Run, choose_precision, open_torch_runner, round_activations, run_parity
from support.variations import VARIATIONS, micro_config

from converters.formats import format_class
from seap_export.errors import UsageError
from seap_export.model.families import model_spec
from validation.runtimes.executorch_runner import ExecutorchRunner
from validation.runtimes.litert_runner import LitertRunner
from validation.runtimes.mlx_runner import MlxRunner
from validation.runtimes.openvino_runner import OpenvinoRunner
from validation.runtimes.runner import Bounded

#: The format of each runtime, and how it is opened to compute in float32 and to give the logits of all tokens.
RUNTIMES: dict[str, tuple[str, Callable[..., Any]]] = {
    "openvino": ("openvino", OpenvinoRunner),
    "mlx-lm": ("mlx", partial(MlxRunner, in_float32=True)),
    "litert": ("litert", partial(LitertRunner, all_logits=True)),
    "executorch": ("executorch", partial(ExecutorchRunner, all_logits=True)),
}
#: Those of 3 groups do not divide 8 heads, so that a cache has a head of zeros.
EIGHT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
#: What CI runs; `make test-all` adds the other families.
QUICK: list[tuple[str, str, str, dict[str, Any]]] = [
    ("openvino", "llama-gqa", "fp32", {"pruned": False}),
    ("openvino", "qwen3-biases", "int4", {}),
    ("openvino", "llama-biases", "fp32", EIGHT_HEADS),
    ("mlx-lm", "llama-gqa", "fp32", {"pruned": False}),
    ("mlx-lm", "llama-biases", "fp32", {}),
    ("mlx-lm", "qwen3-biases", "4bit", {}),
    ("litert", "qwen3-biases", "fp32", {}),
    ("litert", "gemma2-all", "fp32", {}),
    ("executorch", "qwen3-biases", "fp32", {}),
]
#: What rounding activations to the folder's own dtype changes in MLX.
ROUNDING = {"4bit": 0.03, "bf16": 0.2, "8bit": 0.04, "fp16": 0.03}


def cases() -> Iterator[Any]:
    for case in QUICK:
        yield pytest.param(*case, marks=pytest.mark.needs(case[0]))
    precisions = ("fp32", "fp16", "int8", "int4")
    full = [("openvino", name, precisions[index % 4]) for index, name in enumerate(JOINT)]
    full += [("mlx-lm", name, "fp32") for name in FOR_MLX]
    full += [("mlx-lm", *case) for case in (("gemma2-all", "bf16"), ("lfm2-all", "8bit"), ("gemma4-all", "fp16"))]
    full += [(runtime, name, "fp32") for runtime in ("litert", "executorch") for name in RICHEST]
    for runtime, name, precision in full:
        spec = model_spec(micro_config(**VARIATIONS[name]))
        if format_class(RUNTIMES[runtime][0])(precision).refusal(spec, Path()) is None:
            yield pytest.param(runtime, name, precision, {}, marks=[pytest.mark.needs(runtime), pytest.mark.full])


def of_each(*cases: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(*case, marks=pytest.mark.needs(case[0])) for case in cases]


def written(folder: Path, runtime: str, variation: str, precision: str = "fp32", **values: Any) -> WrittenModel:
    source = write_source(folder / "hf", variation, **{"pruned": True, **values})
    return WrittenModel.of(format_class(RUNTIMES[runtime][0])(precision), source)


@pytest.mark.parametrize(("runtime", "variation", "precision", "values"), [*cases()])
def test_equals_torch(
    tmp_path: Path, runtime: str, variation: str, precision: str, values: dict[str, Any], two_rows: Any
) -> None:
    """Two rows and their steps, twice, for the second generation starts anew; and a row in several calls."""
    made, open_runner = written(tmp_path, runtime, variation, precision, **values), RUNTIMES[runtime][1]
    stored = made.source if precision == "fp32" else made.with_stored_weights(tmp_path / "again")
    runner, wanted = open_runner(made.folder), two_rows.of_torch(stored)
    for _ in range(2):
        assert two_rows.largest(two_rows.of(runner, keeps=runtime == "openvino"), wanted) <= 1e-3
    assert two_rows.in_calls(runner, stored) <= 1e-3
    if runtime == "mlx-lm" and precision in ROUNDING:
        (own, *_), truth = two_rows.of(MlxRunner(made.folder)), wanted[0]
        assert np.sqrt(np.square(own - truth).mean()) <= ROUNDING[precision] * np.sqrt(np.square(truth).mean())


@pytest.mark.needs("mlx-lm")
def test_the_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "mlx-lm", "llama-gqa").folder
    (folder / "modeling_mlx.py").write_text("raise SystemExit('run')")
    MlxRunner(folder).close()


@pytest.mark.full
@pytest.mark.needs("openvino")
@pytest.mark.parametrize(("precision", "tied"), [("int8", False), ("int4", True)])
def test_integers_stay_compressed(precision: str, tied: bool, tmp_path: Path) -> None:
    """OpenVINO's plugin for the CPU has kernels from 4 blocks in a row on."""
    sizes = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 136, "tie_word_embeddings": tied}
    made = written(tmp_path, "openvino", "llama-gqa", precision, pruned=False, **sizes)
    products = [
        node.input(1).get_source_output().get_element_type().to_string()
        for node in OpenvinoRunner(made.folder).compiled.get_runtime_model().get_ops()
        if str(node.get_rt_info()["layerType"].astype(str)) == "FullyConnected"
    ]
    assert products == [precision.replace("int", "i")] * (3 * 5 + 1)


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
        given: np.ndarray = RUNTIMES[runtime][1](made.folder, **options).prefill(np.array([prompt]), [len(prompt)])[0]
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
    tmp_path: Path, torch_logits: Callable[..., list[np.ndarray]], runtime: str, length: int
) -> None:
    made = written(tmp_path, runtime, "llama-gqa", max_position_embeddings=length)
    runner: Any = {"litert": LitertRunner, "executorch": ExecutorchRunner}[runtime](
        made.folder
    )  # gives the last logits
    ids = [3 + index % 7 for index in range(length)]
    (truth,) = torch_logits(made.source, [ids])
    assert np.abs(runner.prefill(np.array([ids]), [length])[0, 0] - truth[-1]).max() <= 1e-3
    with pytest.raises(UsageError, match=f"holds at most {length} tokens"):
        runner.step([3])
    assert isinstance(runner, Bounded)
    assert runner.context_length == length
