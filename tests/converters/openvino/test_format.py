"""What an IR holds, byte by byte, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import VARIED_JOINT
from support.corpora import WORDS
from support.formats import write_ir_model
from support.formats.written import greedy_answer
from support.models import write_source
from support.product import BlockQuantization
from support.tokenizers import name_all_tokens
from support.variations import VARIATIONS

from converters.openvino import OpenvinoFormat
from converters.openvino.ir_file import DATA_FILE, MODEL_FILE, read_ir
from seap_export.common.json_file import read_json
from seap_export.errors import EnvironmentFailure
from validation.runtimes.openvino_runner import OpenvinoRunner

pytestmark = pytest.mark.needs("openvino")
PRECISIONS = OpenvinoFormat.precisions
FILES = {
    MODEL_FILE,
    DATA_FILE,
    *(f"openvino_{part}tokenizer.{end}" for part in ("", "de") for end in ("xml", "bin")),
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.mark.parametrize("variation", VARIED_JOINT)
def test_every_family(variation: str, tmp_path: Path) -> None:
    precision = PRECISIONS[list(VARIATIONS).index(variation) % len(PRECISIONS)]
    made = write_ir_model(tmp_path, variation, precision, pruned=True)
    assert {file.name for file in made.folder.iterdir()} == FILES
    assert made.layers == (0, 1, 2)
    assert "auto_map" not in read_json(made.folder / "config.json")
    assert OpenvinoFormat.read(made.folder) == made.format
    assert made.complaints() == []
    size = (made.folder / DATA_FILE).stat().st_size
    assert made.format.size(made.spec) == pytest.approx(size, rel=0.04)
    file = load_file(made.source / "model.safetensors")
    for name, tensor in made.format.weights(made.folder, made.spec).read(file if "fp" in precision else ()).items():
        is_vector = tensor.ndim != 2 or name.endswith((".wpe.weight", "positions.weight"))  # or stored as one
        narrow = file[name].half().float() if precision == "fp16" and not is_vector else file[name]
        torch.testing.assert_close(tensor, narrow, rtol=0, atol=2e-7 if "norm" in name else 0)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_integers_are_those_of_onnx(precision: str, bits: int, tmp_path: Path) -> None:
    from support.product import quantize

    made = write_ir_model(tmp_path, "llama-gqa", precision)
    weight = load_file(made.source / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    onnx, ir = quantize(weight, BlockQuantization(bits)), read_ir(made.folder)
    stored = ir.read("model.layers.0.mlp.down_proj.weight")
    sign = 0x80 if bits == 8 else 0x88
    assert np.array_equal(stored ^ np.uint8(sign), onnx.packed.numpy().reshape(-1))
    scales = ir.read("model.layers.0.mlp.down_proj.weight.scale").view(np.float16)
    assert np.array_equal(scales, onnx.scales.half().numpy().reshape(-1))


@pytest.mark.parametrize(("precision", "variation"), [("int8", "llama-gqa"), ("int4", "llama-tied")])
def test_an_embedding_of_odd_rows_stays_in_floats(precision: str, variation: str, tmp_path: Path) -> None:
    made = write_ir_model(tmp_path, variation, precision, hidden_size=80)
    assert "rows of 80" in str(made.format.remark(made.spec))
    types = {name: constant.element_type for name, constant in read_ir(made.folder).constants.items()}
    assert types["model.embed_tokens.weight"] == types.get("lm_head.weight", "f16") == "f16"
    assert types["model.layers.0.mlp.down_proj.weight"] == {"int8": "i8", "int4": "i4"}[precision]
    assert OpenvinoFormat.read(made.folder) == made.format
    assert made.complaints() == []
    size = (made.folder / DATA_FILE).stat().st_size
    assert made.format.size(made.spec) == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize("what", ["graph", "tokenizer"])
def test_a_full_disk_leaves_nothing(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    serialize = openvino.serialize

    def truncated(model: object, path: Path, *rest: Path) -> None:
        """As OpenVINO writes where there is no space: without an error."""
        serialize(model, path, *rest)
        if path.name == MODEL_FILE and what == "graph":
            path.write_bytes(path.read_bytes()[:1000])
        if path.name != MODEL_FILE and what == "tokenizer":
            raise RuntimeError("cannot write")

    source = write_source(tmp_path / "hf", "llama-gqa")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(openvino, "serialize", truncated)
    with pytest.raises(EnvironmentFailure, match="free disk space"):
        OpenvinoFormat("fp32").write(source, tmp_path / "out", lambda layer: None)
    assert list((tmp_path / "out").iterdir()) == []


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
    """What our runner answers."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokens = greedy_answer(OpenvinoRunner(folder), tokenizer(text).input_ids)
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _answers(folder: Path, texts: list[str], **options: Any) -> list[str]:
    """What GenAI answers to all texts at once."""
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(folder, "CPU", **options, **EXACT)
    config = openvino_genai.GenerationConfig(max_new_tokens=8, do_sample=False, apply_chat_template=False)
    return list(pipeline.generate(texts, config).texts)


@pytest.mark.parametrize("variation", ["mistral-window", "gemma2-all", "granitemoehybrid", "lfm3-all"])
def test_the_same_text(variation: str, tmp_path: Path) -> None:
    folder = _write(tmp_path, variation)
    assert _answers(folder, TEXTS[:1], ATTENTION_BACKEND="SDPA") == [_greedy(folder, TEXTS[0])]


@pytest.mark.parametrize(("variation", "values"), [("llama-biases", SHAPES), ("granitemoehybrid", {})])
def test_the_same_text_in_continuous_batching(variation: str, values: dict[str, int], tmp_path: Path) -> None:
    folder = _write(tmp_path, variation, **values)
    assert _answers(folder, TEXTS, ATTENTION_BACKEND="PA") == [_greedy(folder, text) for text in TEXTS]
