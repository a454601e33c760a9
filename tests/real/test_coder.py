"""Qwen2.5-Coder-0.5B: two KV heads, biases on q, k and v, and an LM head of its own, through the whole pipeline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.product import open_source
from transformers import AutoModelForCausalLM

from seap_export.runtime import Generator

pytestmark = pytest.mark.full
Run = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPT = "def fibonacci(n):"


@pytest.fixture(scope="module")
def variant(coder_gguf: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At ratio 0.2."""
    out = tmp_path_factory.mktemp("coder") / "out"
    options = ("--task", "sample:arithmetic", "--ratio", "0.2", "--set", "samples=40", "--precision", "fp32")
    run("export", coder_gguf, *options, "--out", out)
    return out / "arithmetic-0.2"


def test_the_model_is_read_as_it_is(coder_gguf: Path) -> None:
    spec = open_source(str(coder_gguf)).spec
    assert (len(spec.layers), spec.hidden_size, spec.head_dim, spec.vocab_size) == (24, 896, 64, 151_936)
    assert tuple(spec.layers[0].sizes.values()) == (14, 2, 4864)
    assert spec.layers[0].biases == {"q_proj", "k_proj", "v_proj"}
    assert not spec.tie_word_embeddings


def test_the_variant_is_as_small_as_asked_and_onnx_writes_what_transformers_does(variant: Path) -> None:
    figures = json.loads((variant.parent / "manifest.json").read_text("utf-8"))["variants"][variant.name]
    assert figures["parity"]["onnx"]["verdict"] == "passed"
    assert abs(figures["achieved_ratio"] - 0.2) <= 0.005
    assert figures["quality"]["mean_kl_nats"] < 1.0
    generator = Generator(variant / "onnx")
    ids = generator.token_ids(PROMPT)
    model = AutoModelForCausalLM.from_pretrained(variant / "hf", dtype=torch.float32).eval()
    written = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert generator.generate_ids(ids, 12) == written.tolist()
