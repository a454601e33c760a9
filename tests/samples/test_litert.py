"""The sample that converts a variant for LiteRT-LM, on a pruned micro model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import transformers_model
from support.plans import write_pruned_micro_model
from support.tokenizers import add_chat_template

pytestmark = pytest.mark.needs("litert-lm")
CONVERT = Path(__file__).parents[2] / "samples" / "litert" / "convert.py"


def test_a_prompt_and_steps_give_the_logits_of_the_variant(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    source = add_chat_template(write_pruned_micro_model(tmp_path / "hf", "qwen3-biases"))
    options = ("--context", "256", "--fp32")
    subprocess.run((sys.executable, CONVERT, source, tmp_path / "out", *options), check=True, capture_output=True)
    unpack = ("litert-lm", "unpack", tmp_path / "out" / "model.litertlm", "--output-dir", tmp_path / "parts")
    subprocess.run((Path(sys.executable).parent / unpack[0], *unpack[1:]), check=True, capture_output=True)
    (program,) = (tmp_path / "parts").glob("*.tflite")
    assert "dict(message, content=" in "".join(path.read_text() for path in (tmp_path / "parts").glob("*.pbtext"))

    interpreter = Interpreter(str(program), num_threads=1)
    assert {"prefill_16", "prefill_128", "decode"} <= interpreter.get_signature_list().keys()
    inputs = interpreter.get_signature_runner("decode").get_input_details()
    cache = {name: np.zeros(each["shape"], np.float32) for name, each in inputs.items() if name.startswith("kv")}
    ids, columns = np.random.default_rng(0).integers(4, 30, 40), np.arange(256)
    given = []
    for name, start, stop in [("prefill_16", 0, 16), *(("decode", at, at + 1) for at in range(16, 40))]:
        positions = np.arange(start, stop)
        mask = np.where(columns <= positions[:, None], 0, -np.inf).astype(np.float32)[None, None]
        call = {
            "tokens": ids[None, start:stop].astype(np.int32),
            "input_pos": positions.astype(np.int32),
            "mask": mask,
        }
        outputs = interpreter.get_signature_runner(name)(**call, **cache)
        cache = {part: outputs[part] for part in cache}
        given += [outputs["logits"].reshape(-1)] if "logits" in outputs else []
    with torch.inference_mode():
        expected = transformers_model(source)(torch.tensor(ids[None])).logits[0, 16:]
    assert np.abs(np.array(given) - expected.numpy()).max() < 1e-4
