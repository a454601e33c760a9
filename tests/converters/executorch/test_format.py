"""What is written, and what is left when that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.formats.written import assert_read_back, damages_by_byte, greedy_answer
from support.plans import write_pruned_micro_model
from support.product import read_spec
from support.tokenizers import name_all_tokens, write_byte_level
from tokenizers import Tokenizer

from converters.executorch.format import ExecutorchFormat
from converters.executorch.stored_program import PROGRAM
from converters.executorch.weights import Kind, Weight, stored_numbers
from validation.runtimes.executorch_runner import ExecutorchRunner

PRECISIONS = ExecutorchFormat.precisions


@pytest.mark.needs("executorch")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_read_back_as_the_model_s(qwen3: Path, made: Callable[[str], Path], precision: str) -> None:
    form, folder = ExecutorchFormat(precision), made(precision)
    assert ExecutorchFormat.read(folder) == form
    assert sorted(path.name for path in folder.iterdir()) == [PROGRAM, "tokenizer.json"]
    assert [*form.differences(qwen3, folder), *form.damages(qwen3, folder)] == []
    # the nodes, of which the size is a guess, are a third of it
    assert form.size(read_spec(qwen3)) == pytest.approx((folder / PROGRAM).stat().st_size, rel=0.15)
    assert_read_back(form, qwen3, folder, {"fp32": 0.0, "int8": 0.5 / 127, "int4": 1.2 / 7}[precision])


@pytest.mark.needs("executorch")
def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Callable[[str], Path]) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    positions = [*chance.integers(0, 64, 4), *chance.integers(64, 8000, 8)]
    for lines in damages_by_byte(ExecutorchFormat("int8"), qwen3, folder / PROGRAM, positions):
        assert lines
        assert all("\n" not in line for line in lines)


#: As `usage` of the format has it.
ANSWER = """
import executorch.runtime
import executorch.extension.llm.custom_ops.custom_ops
import executorch.kernels.quantized
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

tokens = []
runner = TextLLMRunner("model.pte", "tokenizer.json")
runner.generate("the cat", GenerationConfig(max_new_tokens=8, temperature=0.0, echo=False), tokens.append)
print("answer:", "".join(tokens))
"""


@pytest.mark.needs("executorch")
def test_executorch_s_own_runner_answers_what_the_model_does(tmp_path: Path) -> None:
    model, folder = write_pruned_micro_model(tmp_path / "hf", "llama-gqa"), tmp_path / "executorch"
    write_byte_level(model)
    name_all_tokens(model)
    folder.mkdir()
    ExecutorchFormat("int8").write(model, folder, lambda layer: None)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    answer = greedy_answer(ExecutorchRunner(folder), tokenizer.encode("the cat").ids)
    done = subprocess.run((sys.executable, "-c", ANSWER), cwd=folder, check=True, capture_output=True, timeout=400)
    assert answer
    assert f"answer: {tokenizer.decode(answer)}" in done.stdout.decode(errors="replace")


@pytest.mark.parametrize(("kind", "furthest"), [("int8", 0.5 / 127), ("int4", 0.6 / 7)])
def test_scales_are_above_zero_and_rows_of_zeros_stay(kind: Kind, furthest: float) -> None:
    rows = torch.cat([torch.linspace(-1.0, 1.0, 64).view(2, 32), torch.zeros(1, 32)])
    stored = stored_numbers(Weight("w", (3, 32), kind), rows)
    assert stored.scales is not None
    assert (stored.scales > 0).all()
    assert (stored.rows() - rows).abs().max() <= furthest
    assert (stored.rows()[2] == 0).all()
    assert torch.equal(stored.rows(slice(1, 3)), stored.rows()[1:])
