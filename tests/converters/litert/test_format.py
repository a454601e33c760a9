"""What is written, and what is left when that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.formats.written import assert_read_back, damages_by_byte, greedy_answer
from support.plans import write_pruned_micro_model
from support.product import read_spec
from support.tokenizers import name_all_tokens
from tokenizers import Tokenizer, processors

from converters.litert.bundle import BUNDLE, PROGRAM, Bundle
from converters.litert.format import LitertFormat
from validation.runtimes.litert_runner import LitertRunner

PRECISIONS = LitertFormat.precisions


@pytest.mark.needs("litert")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_read_back_as_the_model_s(qwen3: Path, made: Callable[[str], Path], precision: str) -> None:
    form, folder = LitertFormat(precision), made(precision)
    assert LitertFormat.read(folder) == form
    assert [path.name for path in folder.iterdir()] == [BUNDLE]
    assert [*form.differences(qwen3, folder), *form.damages(qwen3, folder)] == []
    span = Bundle(folder).span(PROGRAM)
    # the nodes, of which the size is a guess, are a third of it
    assert form.size(read_spec(qwen3)) == pytest.approx(span.stop - span.start, rel=0.1)
    assert_read_back(form, qwen3, folder, {"fp32": 0.0, "int8": 0.5 / 127}[precision])


@pytest.mark.needs("litert")
def test_random_bytes_are_refused_in_one_line(qwen3: Path, copied: Callable[[str], Path]) -> None:
    """Wherever a byte of the header or of the flatbuffer is another one, nothing else is raised."""
    folder, chance = copied("int8"), np.random.default_rng(0)
    start = Bundle(folder).span(PROGRAM).start
    positions = [*chance.integers(8, 400, 4), *chance.integers(start, start + 400, 4)]
    for lines in damages_by_byte(LitertFormat("int8"), qwen3, folder / BUNDLE, positions):
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
    folder = tmp_path / "litert"
    folder.mkdir()
    LitertFormat("fp32").write(model, folder, lambda layer: None)
    prompt = f"{BOS} the cat home"
    answer = greedy_answer(LitertRunner(folder), tokenizer.encode(prompt, add_special_tokens=False).ids)
    options = ("--cache", "memory", "--temperature", "0", "--prompt", "the cat")
    run = (Path(sys.executable).parent / "litert-lm", "run", folder / BUNDLE, *options)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=environment, timeout=120)
    assert answer
    assert done.stdout.split()[: len(answer)] == [tokenizer.id_to_token(token) for token in answer]
    assert [path.name for path in folder.iterdir()] == [BUNDLE]
