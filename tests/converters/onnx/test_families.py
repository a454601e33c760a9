"""Graphs of every family compute what transformers' own class computes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import JOINT, VARIED
from support.execution import ONE_THREAD, empty_state
from support.formats import write_scaled_graph
from support.models import write_micro_model
from support.product import Run, open_torch_runner, read_spec
from support.variations import SHARED_CACHES, VARIATIONS

from converters.onnx import genai_config, write_onnx
from converters.onnx.form import OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import Precision
from seap_export.model.families import model_spec

#: A prompt, a second call, and steps, one of which passes the 16 tokens at which the micro phi3 switches its tables.
PARTS = np.split(np.random.default_rng(0).integers(3, 96, 20), [6, *range(10, 20)])


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[np.ndarray]]]:
    """`truth("phi3")`: the folder of that micro model, and torch's logits of the parts."""
    made: dict[str, tuple[Path, list[np.ndarray]]] = {}

    def make(variation: str) -> tuple[Path, list[np.ndarray]]:
        if variation not in made:
            values = VARIATIONS.get(variation, SHARED_CACHES)
            folder = write_micro_model(tmp_path_factory.mktemp("models") / variation, **values)
            with open_torch_runner(folder, ONE_THREAD) as runner:
                (logits,) = runner.run([Run([part.tolist() for part in PARTS], 20)])
            made[variation] = folder, np.split(logits, [6, *range(10, 20)])
        return made[variation]

    return make


def largest_difference(folder: Path, expected: list[np.ndarray]) -> float:
    """Of a logit, over the RMS of the part's, in torch."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    caches = session.get_inputs()[2:]
    past = [empty_state(item) for item in caches]
    largest, length = 0.0, 0
    for part, wanted in zip(PARTS, expected, strict=True):
        length += len(part)
        feeds = {"input_ids": part[None], "attention_mask": np.ones((1, length), np.int64)}
        logits, *past = session.run(
            None, feeds | {item.name: past_pair for item, past_pair in zip(caches, past, strict=True)}
        )
        largest = max(largest, float(np.abs(logits[0] - wanted).max() / np.sqrt(np.square(wanted).mean())))
    return largest


@pytest.mark.parametrize("variation", [*VARIED, "shared-caches"])
def test_equals_transformers(
    variation: str, truth: Callable[[str], tuple[Path, list[np.ndarray]]], tmp_path: Path
) -> None:
    """In both dialects, with weights that are scaled, and, without experts, in fp16; all weights can be read back."""
    folder, expected = truth(variation)
    forms = [OnnxForm(), OnnxForm(dialect="standard")]
    scaled, narrow = forms if len(variation) % 2 else reversed(forms)
    for index, form in enumerate((*forms, scaled)):
        (out := tmp_path / str(index)).mkdir()
        (write_onnx if index < 2 else write_scaled_graph)(folder, out, form)
        assert largest_difference(out, expected) <= 1e-4, form
    stored = load_file(folder / "model.safetensors")
    read = OnnxFormat.of(forms[0]).weights(tmp_path / "0", read_spec(folder)).read(stored)
    assert [name for name, tensor in stored.items() if not torch.equal(read[name], tensor.float())] == []
    if variation in JOINT:  # where mixtures are rounded, a token may reach another expert
        (tmp_path / "fp16").mkdir()
        write_onnx(folder, tmp_path / "fp16", replace(narrow, precision=Precision("fp16")))
        assert largest_difference(tmp_path / "fp16", expected) <= 0.1


_GENAI = """
import json, sys
import onnxruntime_genai as og
found = {}
for name, tokens in json.loads(sys.argv[2]).items():
    model = og.Model(f"{sys.argv[1]}/{name}")
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=18, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    found[name] = list(map(int, generator.get_sequence(0)))
print(json.dumps(found))
"""


@pytest.mark.release
def test_genai_generates_what_transformers_does(
    truth: Callable[[str], tuple[Path, list[np.ndarray]]], tmp_path: Path
) -> None:
    prompt, expected = PARTS[0].tolist(), {}
    for variation in VARIATIONS:
        folder, _ = truth(variation)
        (tmp_path / variation).mkdir()
        write_onnx(folder, tmp_path / variation)
        with open_torch_runner(folder, ONE_THREAD) as runner:
            expected[variation] = [*prompt, *runner.continuations([prompt], 12)[0]]
        config = json.loads((folder / "config.json").read_text())
        config["eos_token_id"] = min(set(range(96)) - set(expected[variation]))
        settings = genai_config(model_spec(config), config, None)
        (tmp_path / variation / "genai_config.json").write_text(json.dumps(settings))
    python = Path(__file__).parents[3] / ".venv-genai" / "bin" / "python"
    command = [python, "-I", "-c", _GENAI, tmp_path, json.dumps(dict.fromkeys(VARIATIONS, prompt))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
