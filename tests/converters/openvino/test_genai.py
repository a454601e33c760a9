"""OpenVINO GenAI reads the folder and generates what our runner does, whatever the shapes of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.corpora import WORDS
from support.models import write_source
from support.tokenizers import name_all_tokens

from converters.openvino import OpenvinoFormat
from validation.runtimes.openvino_runner import OpenvinoRunner

pytestmark = pytest.mark.needs("openvino")
#: As the runner computes; by default the plugin rounds the cache, and computes in bf16 where the processor can.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
TEXT = " ".join(WORDS[:9])


def _write(folder: Path, variation: str) -> Path:
    source, target = name_all_tokens(write_source(folder / "hf", variation, pruned=True)), folder / "openvino"
    target.mkdir()
    OpenvinoFormat("fp32").write(source, target, lambda layer: None)
    return target


def _greedy(folder: Path, ids: list[int], steps: int) -> list[int]:
    runner, tokens = OpenvinoRunner(folder), []
    logits = runner.prefill(np.array([ids]), [len(ids)])[0, -1]
    while len(tokens) < steps:
        tokens.append(int(logits.argmax()))
        if tokens[-1] == 2:
            break
        logits = runner.step(tokens[-1:])[0]
    return tokens


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window", "gemma2-all", "granitemoehybrid"])
def test_the_same_text(variation: str, tmp_path: Path) -> None:
    import openvino_genai
    from transformers import PreTrainedTokenizerFast

    folder = _write(tmp_path, variation)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    wanted = _greedy(folder, tokenizer(TEXT).input_ids, 12)
    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **EXACT)
    given = pipeline.generate(TEXT, max_new_tokens=12, do_sample=False, apply_chat_template=False)
    assert given == tokenizer.decode(wanted, skip_special_tokens=True)


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window", "granitemoehybrid"])
def test_paged_attention_refuses_the_graph(variation: str, tmp_path: Path) -> None:
    """It would take the mask away, and computes other tokens for layers of different shapes."""
    import openvino_genai

    with pytest.raises(RuntimeError, match="attention_mask"):
        openvino_genai.LLMPipeline(_write(tmp_path, variation), "CPU", ATTENTION_BACKEND="PA", **EXACT)
