"""OpenVINO GenAI reads the folder and generates what our runner does, whatever the shapes of the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
#: Shorter and longer than a block of paged attention, which has 32 tokens.
TEXTS = [" ".join(WORDS[start:end]) for start, end in ((0, 9), (3, 5), (1, 41))]
#: A variant with 3, 1 and 4 groups of 1, 1 and 2 heads; of 8 in each layer, 3 groups have 4.
SHAPES = {"num_attention_heads": 8, "num_key_value_heads": 4}


def _write(folder: Path, variation: str, *, pruned: bool = True, **values: int) -> Path:
    source = name_all_tokens(write_source(folder / "hf", variation, pruned=pruned, **values))
    target = folder / "openvino"
    target.mkdir()
    OpenvinoFormat("fp32").write(source, target, lambda layer: None)
    return target


def _greedy(folder: Path, text: str) -> str:
    """What our runner answers, in 12 tokens."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids, runner, tokens = tokenizer(text).input_ids, OpenvinoRunner(folder), []
    logits = runner.prefill(np.array([ids]), [len(ids)])[0, -1]
    while len(tokens) < 12:
        tokens.append(int(logits.argmax()))
        if tokens[-1] == 2:
            break
        logits = runner.step(tokens[-1:])[0]
    answer = tokenizer.decode(tokens, skip_special_tokens=True)
    assert isinstance(answer, str)
    return answer


def _answers(folder: Path, texts: list[str], **options: Any) -> list[str]:
    """What GenAI answers to all texts at once."""
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **options, **EXACT)
    config = openvino_genai.GenerationConfig(max_new_tokens=12, do_sample=False, apply_chat_template=False)
    return list(pipeline.generate(texts, config).texts)


@pytest.mark.parametrize("variation", ["mistral-window", "gemma2-all", "granitemoehybrid", "lfm3-all"])
def test_the_same_text(variation: str, tmp_path: Path) -> None:
    folder = _write(tmp_path, variation)
    assert _answers(folder, TEXTS[:1], ATTENTION_BACKEND="SDPA") == [_greedy(folder, TEXTS[0])]


@pytest.mark.parametrize(("variation", "values"), [("llama-biases", SHAPES), ("granitemoehybrid", {})])
def test_the_same_text_in_continuous_batching(variation: str, values: dict[str, int], tmp_path: Path) -> None:
    folder = _write(tmp_path, variation, **values)
    assert _answers(folder, TEXTS, ATTENTION_BACKEND="PA") == [_greedy(folder, text) for text in TEXTS]


@pytest.mark.parametrize("variation", ["phi3-all", "lfm2"])
def test_paged_attention_refuses_the_graph(variation: str, tmp_path: Path) -> None:
    """It has no sliding windows and no convolutions, and does not know the length of an input."""
    import openvino_genai

    with pytest.raises(RuntimeError, match="attention_mask"):
        openvino_genai.LLMPipeline(_write(tmp_path, variation), "CPU", ATTENTION_BACKEND="PA", **EXACT)
