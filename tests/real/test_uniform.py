"""SmolLM2-135M with layers all alike: a plain llama, and the tokens of its ONNX file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from seap_export.runtime import Generator

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
PROMPT = "Question: Is water wet?\nAnswer:"


def test_a_uniform_variant_is_a_plain_llama(smollm2_gguf: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "scores.toml"
    recipe.write_text('score = "wifv"\n', "utf-8")
    settings = ("held_out=1", "max_length=64", "prompts=1", "decode_steps=2")
    few = ("--recipe", recipe, "--set", "samples=8", *(word for setting in settings for word in ("--set", setting)))
    done = run(
        "export", smollm2_gguf, "--task", "sample:reading", "--ratio", "0.2", "--layout", "uniform", *few,
        "--precision", "fp32", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    made = json.loads(done.stdout)["variants"]["reading-0.2"]
    assert (made["method"], made["parity"]["onnx"]["verdict"]) == ("custom", "passed")
    assert abs(made["achieved_ratio"] - 0.2) <= 0.005
    folder = tmp_path / "out" / "reading-0.2"
    model, info = AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    assert type(model) is LlamaForCausalLM
    assert not any(info.values())
    ids = AutoTokenizer.from_pretrained(folder / "hf")(PROMPT, return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids.input_ids.shape[1] :].tolist()
    assert len(expected) >= 4
    assert Generator(folder / "onnx").generate_ids(ids.input_ids[0].tolist(), 12) == expected
