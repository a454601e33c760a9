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
ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPT = "def fibonacci(n):"


@pytest.fixture(scope="module")
def exported(coder_gguf: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant at ratio 0.2."""
    out = tmp_path_factory.mktemp("coder") / "out"
    options = ("--task", "sample:arithmetic", "--ratio", "0.2", "--set", "samples=40", "--precision", "fp32")
    run("export", coder_gguf, *options, "--out", out)
    return out


def test_the_model_is_read_as_it_is(coder_gguf: Path) -> None:
    spec = open_source(str(coder_gguf)).spec
    assert (len(spec.layers), spec.hidden_size, spec.head_dim, spec.vocab_size) == (24, 896, 64, 151_936)
    layer = spec.layers[0]
    assert tuple(layer.sizes.values()) == (14, 2, 4864)
    assert layer.biases == {"q_proj", "k_proj", "v_proj"}
    assert not spec.tie_word_embeddings


def test_the_variant_passes_and_is_as_small_as_asked(exported: Path) -> None:
    variant = json.loads((exported / "manifest.json").read_text("utf-8"))["variants"]["arithmetic-0.2"]
    assert variant["parity"]["onnx"]["verdict"] == "passed"
    assert abs(variant["achieved_ratio"] - 0.2) <= 0.005
    assert variant["quality"]["mean_kl_nats"] < 1.0


def test_onnx_and_transformers_write_the_same(exported: Path) -> None:
    folder = exported / "arithmetic-0.2"
    generator = Generator(folder / "onnx")
    ids = generator.token_ids(PROMPT)
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()
    written = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert generator.generate_ids(ids, 12) == written.tolist()


@pytest.mark.parametrize("form", [("--precision", "int4"), ("--precision", "fp16"), ("--dialect", "standard")])
def test_other_forms_pass(form: tuple[str, ...], exported: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("convert", exported / "arithmetic-0.2" / "hf", *form, "--out", out)
    assert Generator(out).generate_ids(Generator(out).token_ids(PROMPT), 4)
