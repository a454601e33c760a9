"""Graphs of every family compute what transformers' own class computes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from support.chosen import FEATURED, JOINT, RICHEST, VARIED
from support.execution import ONE_THREAD, empty_state
from support.formats import PARTS, torch_logits, write_scaled_graph
from support.models import write_micro_model
from support.product import open_torch_runner, read_spec
from support.variations import SHARED_CACHES, VARIATIONS

from converters.onnx import genai_config, write_onnx
from converters.onnx.form import OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import Precision
from seap_export.model.families import model_spec

Model = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """`model("phi3")`: the folder of that micro model, which switches its tables at 16 tokens; written once."""
    folder = tmp_path_factory.mktemp("models")
    return cache(lambda name: write_micro_model(folder / name, **VARIATIONS.get(name, SHARED_CACHES)))


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
        states = {item.name: state for item, state in zip(caches, past, strict=True)}
        logits, *past = session.run(None, feeds | states)
        largest = max(largest, float(np.abs(logits[0] - wanted).max() / np.sqrt(np.square(wanted).mean())))
    return largest


@pytest.mark.parametrize("variation", [*VARIED, "shared-caches"])
def test_equals_transformers(variation: str, model: Model, tmp_path: Path) -> None:
    """In both dialects, with weights that are scaled, and, without experts, in fp16; all weights can be read back."""
    folder = model(variation)
    expected = torch_logits(folder)
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


#: The types are written into the last of the folders, one after the other, and opened alone.
_GENAI = """
import json, sys
from pathlib import Path
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
settings = Path(sys.argv[1], name, "genai_config.json")
values = json.loads(settings.read_text())
for values["model"]["type"] in json.loads(sys.argv[3]):
    settings.write_text(json.dumps(values))
    og.Model(str(settings.parent))
print(json.dumps(found))
"""


@pytest.mark.release
def test_genai_generates_what_transformers_does_and_knows_every_family(model: Model, tmp_path: Path) -> None:
    prompt, expected = PARTS[0].tolist(), {}

    def settings(variation: str, **others: Any) -> dict[str, Any]:
        config = json.loads((model(variation) / "config.json").read_text()) | others
        return genai_config(model_spec(config), config, None)

    for variation in FEATURED:
        (out := tmp_path / variation).mkdir()
        write_onnx(model(variation), out)
        with open_torch_runner(model(variation), ONE_THREAD) as runner:
            expected[variation] = [*prompt, *runner.continuations([prompt], 12)[0]]
        end = min(set(range(96)) - set(expected[variation]))
        (out / "genai_config.json").write_text(json.dumps(settings(variation, eos_token_id=end)))
    types = sorted({settings(name)["model"]["type"] for name in RICHEST})
    python = Path(__file__).parents[3] / ".venv-genai" / "bin" / "python"
    asked = json.dumps(dict.fromkeys(FEATURED, prompt)), json.dumps(types)
    command = [python, "-I", "-c", _GENAI, tmp_path, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
