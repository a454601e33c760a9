"""Formats with a program of their own: what they write, refuse and say, and what their runtimes answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.formats.written import complaints, greedy_answer
from support.plans import write_pruned_micro_model
from support.product import read_spec
from support.tokenizers import name_all_tokens, write_byte_level
from support.variations import VARIATIONS, micro_config
from tokenizers import Tokenizer, processors

from converters.executorch.decoder import CONTEXT as EXECUTORCH_CONTEXT
from converters.executorch.format import ExecutorchFormat
from converters.executorch.stored_program import PROGRAM
from converters.executorch.weights import Kind, Weight, stored_numbers
from converters.format import Format
from converters.litert.bundle import BUNDLE, Bundle
from converters.litert.bundle import PROGRAM as SECTION
from converters.litert.decoder import CONTEXT as LITERT_CONTEXT
from converters.litert.format import LitertFormat
from seap_export.model.families import model_spec
from validation.runtimes.executorch_runner import ExecutorchRunner
from validation.runtimes.litert_runner import LitertRunner

FORMATS: dict[str, type[Format]] = {"executorch": ExecutorchFormat, "litert": LitertFormat}


def needing(*rows: tuple[Any, ...]) -> list[Any]:
    """Rows that begin with the name of a format, which they need."""
    return [pytest.param(*row, marks=pytest.mark.needs(row[0])) for row in rows]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model with norms of heads, biases and an LM head; not to be changed."""
    return write_pruned_micro_model(tmp_path_factory.mktemp("qwen3") / "hf", "qwen3-biases")


def written(format: Format, model: Path, folder: Path) -> Path:
    folder.mkdir()
    format.write(model, folder, lambda layer: None)
    return folder


def section(folder: Path) -> int:
    """The bytes of the program in a bundle."""
    span = Bundle(folder).span(SECTION)
    return span.stop - span.start


@pytest.mark.parametrize(
    ("name", "precision", "step"),
    needing(
        ("executorch", "fp32", 0.0),
        ("executorch", "int8", 0.5 / 127),
        ("executorch", "int4", 1.2 / 7),
        ("litert", "fp32", 0.0),
        ("litert", "int8", 0.5 / 127),
    ),
)
def test_weights_are_read_back_as_the_model_s(
    name: str, precision: str, step: float, model: Path, tmp_path: Path
) -> None:
    """In float32; matrices are off by a step of a row at most."""
    format = FORMATS[name](precision)
    folder = written(format, model, tmp_path / "out")
    assert FORMATS[name].read(folder) == format
    files = {"executorch": [PROGRAM, "tokenizer.json"], "litert": [BUNDLE]}[name]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert complaints(format, model, folder) == []
    # the nodes, of which the size is a guess, are a third of it
    size, off = ((folder / PROGRAM).stat().st_size, 0.15) if name == "executorch" else (section(folder), 0.1)
    assert format.size(read_spec(model)) == pytest.approx(size, rel=off)
    stored = load_file(model / "model.safetensors")
    read = format.weights(folder, read_spec(model)).read(stored)
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in read.items()} == {
        key: (tensor.shape, torch.float32) for key, tensor in stored.items()
    }
    for key, tensor in read.items():
        most = (1.001 * step if tensor.dim() == 2 else 0.0) * stored[key].abs().amax(-1, keepdim=True)
        assert ((tensor - stored[key]).abs() <= most).all(), key


@pytest.mark.parametrize("name", needing(*((name,) for name in FORMATS)))
def test_random_bytes_are_refused_in_one_line(name: str, model: Path, tmp_path: Path) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    format, chance = FORMATS[name]("int8"), np.random.default_rng(0)
    folder = written(format, model, tmp_path / "out")
    start = Bundle(folder).span(SECTION).start if name == "litert" else 64
    head, end = ((8, 400), start + 400) if name == "litert" else ((0, 64), 8000)
    file = folder / {"executorch": PROGRAM, "litert": BUNDLE}[name]
    whole = file.read_bytes()
    for position in (*chance.integers(*head, 4), *chance.integers(start, end, 6)):
        changed = bytearray(whole)
        changed[position] ^= 0xFF
        file.write_bytes(changed)
        lines = complaints(format, model, folder)
        assert lines or name == "litert"
        assert all("\n" not in line for line in lines)


BOS = "<s>"
TURNS = "{% for message in messages %}{{ message.content }} home {% endfor %}"


@pytest.mark.needs("litert")
@pytest.mark.parametrize(
    ("template", "tokenizer_adds_bos"),
    [(f"{BOS} {TURNS}", False), (f"{{{{ bos_token }}}} {TURNS}", False), (TURNS, True)],
    ids=["BOS in the template", "BOS by its name", "BOS by the tokenizer"],
)
def test_litert_lm_answers_what_the_model_does(tmp_path: Path, template: str, tokenizer_adds_bos: bool) -> None:
    model = name_all_tokens(write_pruned_micro_model(tmp_path / "hf", "llama-gqa"))
    (model / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    if tokenizer_adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
        tokenizer.save(str(model / "tokenizer.json"))
    folder = written(LitertFormat("fp32"), model, tmp_path / "litert")
    ids = tokenizer.encode(f"{BOS} the cat home", add_special_tokens=False).ids
    answer = greedy_answer(LitertRunner(folder), ids)
    options = ("--cache", "memory", "--temperature", "0", "--prompt", "the cat")
    run = (Path(sys.executable).parent / "litert-lm", "run", folder / BUNDLE, *options)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment, timeout=120)
    assert answer
    assert done.stdout.split()[: len(answer)] == [tokenizer.id_to_token(token) for token in answer]
    assert [path.name for path in folder.iterdir()] == [BUNDLE]


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
    model = write_pruned_micro_model(tmp_path / "hf", "llama-gqa")
    write_byte_level(model)
    name_all_tokens(model)
    folder = written(ExecutorchFormat("int8"), model, tmp_path / "executorch")
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


@pytest.mark.parametrize(
    ("variation", "names", "named"),
    [
        ("mixtral", FORMATS, "mixture of experts"),
        ("gpt_oss-all", FORMATS, "attention sinks"),
        ("phi3-all", FORMATS, "changes with the length"),
        ("qwen3_5-all", FORMATS, "gated delta net"),
        ("gemma3-all", ("executorch",), "sliding window"),
    ],
)
def test_what_it_cannot_compute_is_refused(variation: str, names: Any, named: str) -> None:
    values = {**VARIATIONS[variation], **({"sliding_window": None} if variation == "phi3-all" else {})}
    for name in names:
        reason = FORMATS[name]("int8").refusal(model_spec(micro_config(**values)), Path())
        assert reason is not None
        assert named in reason
        assert "use another format" in reason
        assert "\n" not in reason


@pytest.mark.parametrize(("name", "context"), [("executorch", EXECUTORCH_CONTEXT), ("litert", LITERT_CONTEXT)])
def test_a_longer_context_is_cut_and_the_user_told(name: str, context: int) -> None:
    longer = model_spec(micro_config(model_type="llama", max_position_embeddings=4 * context))
    assert str(context) in str(FORMATS[name]("int8").remark(longer))
    assert FORMATS[name]("int8").remark(model_spec(micro_config(model_type="llama"))) is None
