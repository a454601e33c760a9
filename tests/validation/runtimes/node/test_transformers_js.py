"""transformers.js computes what torch computes with the weights that are written, or what it lacks is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chosen import JOINT, featured
from support.corpora import WORDS
from support.formats.web import WebModel
from support.models import write_source
from support.product import TorchRunner
from tokenizers import Tokenizer, processors

from converters.web import WebFormat
from converters.web.precisions import precision_of
from seap_export.errors import EnvironmentFailure
from validation.runtimes.node.package import NODE_MODULES, find_transformers_js
from validation.runtimes.node.transformers_js import Backend, TransformersJsRunner

#: Of the largest logit; 16 bits carry three digits, and sums of them less.
NARROW = 0.05


@pytest.fixture
def opened() -> Iterator[Callable[..., TransformersJsRunner]]:
    with ExitStack() as runners:
        yield lambda *given: runners.enter_context(closing(TransformersJsRunner(*given)))


QUICK = [("fp32", "node", 5e-5, "llama-biases"), ("q4", "wasm", 3e-5, "qwen3-biases")]
FULL = [
    ("q8", "wasm", 3e-5, "qwen3-biases"),
    ("q8", "node", 2 * NARROW, "qwen3-biases"),
    ("q4f16", "node", 2 * NARROW, "qwen3-biases"),
    ("fp16", "wasm", NARROW, "qwen3-biases"),
    *(("fp32", "node", 5e-5, name) for name in featured(JOINT)),  # GPT-Neo does not scale its attention
]


@pytest.mark.needs("transformers.js")
@pytest.mark.parametrize(
    ("precision", "backend", "most", "variation"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.full) for case in FULL)],
)
def test_equals_torch(
    tmp_path: Path, opened: Any, precision: str, most: float, backend: Backend, variation: str, two_rows: Any
) -> None:
    """Node's kernels round activations to 8 bits, where a tie may fall to either side; WebAssembly's do not."""
    source = write_source(tmp_path / "hf", variation, pruned=variation != "llama-biases")
    made = WebModel.of(WebFormat(precision), source)
    runner = opened(made.folder, backend)
    assert ("web" if backend == "wasm" else "node") in runner.versions
    how = precision_of(precision).quantization if backend == "node" else None
    wanted = two_rows.of_torch(made.with_stored_weights(tmp_path / "back"), how=how)
    computed = two_rows.of(runner, keeps=True)
    assert len(computed) == len(wanted)
    scale = max(np.abs(logits).max() for logits in wanted[:2])
    assert two_rows.largest(computed, wanted) < most * scale


def _greedy(source: Path, prompt: str) -> list[str]:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    (following,) = TorchRunner(source).continuations([tokenizer.encode(prompt).ids], 10, (2,))
    return str(tokenizer.decode(list(following))).split()


@pytest.mark.needs("transformers.js")
@pytest.mark.parametrize(
    ("variation", "bos"), [("llama-tied", True), pytest.param("qwen3_5", False, marks=pytest.mark.full)]
)
def test_pipeline_says_what_the_model_says_up_to_the_end_of_text(
    tmp_path: Path, opened: Any, variation: str, bos: bool
) -> None:
    """Of a model all of whose tokens are words; `</s>` is no special token of its tokenizer, so that it is shown."""
    source, prompts = write_source(tmp_path / "hf", variation, vocab_size=len(WORDS) + 4), ["the cat sat on", "a dog"]
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.save(str(source / "tokenizer.json"))
    said = [_greedy(source, prompt) for prompt in prompts]
    end = next(word for word in said[0][1:] if word != said[0][0])
    for is_ended in (False, True):
        eos = [2, tokenizer.token_to_id(end)] if is_ended else [2]
        (source / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}), "utf-8")
        folder = tmp_path / f"web {is_ended}"
        folder.mkdir()
        WebFormat("fp32").write(source, folder, lambda _: None)
        runner = opened(folder)
        assert runner._ask("encode", text=prompts[0], special=True)["value"] == tokenizer.encode(prompts[0]).ids
        for words, text in zip(said, runner._ask("generate", prompts=prompts, tokens=10)["texts"], strict=True):
            wanted = words[: words.index(end) + 1] if is_ended and end in words else words
            assert text.removesuffix("</s>").split() == wanted != []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs of a machine with Node 22, npm and nothing else."""
    _program(tmp_path / "bin" / "node", "v22.1.0")
    _program(tmp_path / "bin" / "npm", str(tmp_path / "global"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(NODE_MODULES, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "bin"


def _program(path: Path, says: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n", "utf-8")
    path.chmod(0o755)


def _package(modules: Path, manifest: str = '{"version": "4.3.1"}') -> Path:
    folder = modules / "@huggingface" / "transformers"
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(manifest, "utf-8")
    return folder.resolve()


@pytest.mark.parametrize(
    ("node", "manifest", "says"),
    [
        (None, None, "Node; install version 20"),
        ("v18.20.1", None, r"Node 18\.20\.1 is too old"),
        ("v22.1.0", None, "is not installed"),
        ("v22.1.0", '{"version": "4.2.9"}', "is too old; run 'npm install"),
        ("v22.1.0", '{"version": "next"}', "is too old; run 'npm install"),
        ("v22.1.0", "{", "run 'npm install"),
    ],
)
def test_what_is_missing_too_old_or_damaged(
    programs: Path, tmp_path: Path, node: str | None, manifest: str | None, says: str
) -> None:
    (programs / "node").unlink()
    if node:
        _program(programs / "node", node)
    if manifest:
        _package(tmp_path / "here" / "node_modules", manifest)
    with pytest.raises(EnvironmentFailure, match=says):
        find_transformers_js()


@pytest.mark.usefixtures("programs")
def test_places_are_tried_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = _package(tmp_path / "global")
    assert find_transformers_js().folder == other
    nearer = _package(tmp_path / "here" / "node_modules", '{"version": "4.4.0"}')
    assert (find_transformers_js().folder, find_transformers_js().version) == (nearer, "4.4.0")
    named = _package(tmp_path / "named" / "node_modules")
    for folder in (tmp_path / "named", tmp_path / "named" / "node_modules"):
        monkeypatch.setenv(NODE_MODULES, str(folder))
        assert find_transformers_js().folder == named
    monkeypatch.setenv(NODE_MODULES, str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentFailure, match="is not installed"):
        find_transformers_js()
