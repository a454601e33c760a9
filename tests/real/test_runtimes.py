"""A real variant in every runtime."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support import needs
from support.product import open_runtime, run_parity
from transformers import AutoTokenizer

from converters.format import Format
from converters.formats import parse_format
from validation.execution import Execution
from validation.runtimes.vllm.runner import PYTHON

pytestmark = pytest.mark.full
PROMPTS = ("What is 12 + 30?", "Write a short poem about the sea and the wind.", "Name three colours.")
#: What runs each, as `needs` knows it.
FORMATS = {
    "gguf:f16": "llama.cpp",
    "gguf:q4_0": "llama.cpp",
    "openvino:fp16": "openvino",
    "openvino:int4": "openvino",
    "litert:fp32": "litert",
    "litert:int8": "litert",
    "executorch:fp32": "executorch",
    "executorch:int4": "executorch",
    "web:fp32": "transformers.js",
    "web:q4": "transformers.js",
    "mlx:fp16": "mlx-lm",
    "mlx:4bit": "mlx-lm",
    "hf:fp32": "vllm",
}
#: Whose rounding may not tip a choice.
EXACT = ("gguf:f16", "openvino:fp16", "litert:fp32", "executorch:fp32", "web:fp32", "mlx:fp16", "hf:fp32")
TOKENS = 12


@pytest.fixture(autouse=True)
def set_vllm_program(monkeypatch: pytest.MonkeyPatch) -> None:
    if (python := needs.find("vllm")) is not None:
        monkeypatch.setenv(PYTHON, python)


def write(name: str, hf: Path, out: Path) -> tuple[Format, Path]:
    """The format, and the folder in `out` that it has written; `hf` itself is not written anew."""
    kind, precision = parse_format(name)
    format = kind(str(precision))
    if format.name == "hf":
        return format, hf
    folder = out / format.name  # which tells what wrote it
    folder.mkdir()
    format.write(hf, folder, lambda layer: None)
    return format, folder


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.needs(FORMATS[name])) for name in FORMATS])
def test_parity_and_the_text_of_onnx_runtime(name: str, demo: Path, tmp_path: Path) -> None:
    hf = demo / "dates-0.5" / "hf"
    format, folder = write(name, hf, tmp_path)
    runtime = format.runtimes[-1]
    options = {"runtime": runtime, "execution": Execution(threads=2), "decode_steps": 8, "long_tokens": 256}
    report = run_parity(hf, folder, PROMPTS, **options)
    assert report.passed, report.summary()
    if name in EXACT:
        _, reference = write("onnx:fp32", hf, tmp_path)
        prompt = AutoTokenizer.from_pretrained(hf)(PROMPTS[0])["input_ids"]
        assert greedy(runtime, folder, prompt) == greedy("onnxruntime", reference, prompt)


def greedy(name: str, folder: Path, prompt: list[int]) -> list[int]:
    tokens: list[int] = []
    with closing(open_runtime(name, folder, Execution(threads=2))) as runner:
        last = runner.prefill(np.asarray([prompt], np.int64), [len(prompt)], TOKENS)[0, -1]
        for _ in range(TOKENS):
            tokens.append(int(last.argmax()))
            last = runner.step(tokens[-1:])[0]
    return tokens
