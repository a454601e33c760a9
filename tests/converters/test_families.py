"""Graphs of every family compute what transformers' own class computes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from micro_families import FAMILIES, model_of
from transformers import PreTrainedModel

from converters import genai_config, write_onnx
from converters.dialects import DialectName
from converters.form import OnnxForm
from converters.precision import Precision
from seap_export.families import model_spec, supported_families
from validation.torch_runner import TorchRunner

TOLERANCE = 1e-4


def test_no_family_is_left_out() -> None:
    assert FAMILIES.keys() == set(supported_families())


class Session:
    """The graph written from a model; it continues one generation."""

    def __init__(self, model: PreTrainedModel, folder: Path, form: OnnxForm) -> None:
        model.save_pretrained(folder / "hf")
        (folder / "onnx").mkdir(parents=True)
        write_onnx(folder / "hf", folder / "onnx", form)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options)
        caches = self._session.get_inputs()[2:]
        dtype = np.float16 if "float16" in caches[0].type else np.float32
        self._names = [item.name for item in caches]
        self._past = [np.zeros((1, item.shape[1], 0, item.shape[3]), dtype) for item in caches]
        self._length = 0

    def call(self, ids: np.ndarray) -> np.ndarray:
        self._length += ids.shape[1]
        feeds = {"input_ids": ids, "attention_mask": np.ones((1, self._length), np.int64)}
        logits, *self._past = self._session.run(None, feeds | dict(zip(self._names, self._past, strict=True)))
        return logits


def differences(model: PreTrainedModel, session: Session) -> list[float]:
    """Of a prompt's logits, those of a second call, and of steps; over the RMS of torch's."""
    tokens = np.random.default_rng(0).integers(3, 96, 20)
    parts = np.split(tokens, [6, *range(10, 20)])
    expected = np.split(TorchRunner(model).run([part.tolist() for part in parts], 20).logits, [6, *range(10, 20)])
    found = [session.call(part[None])[0] for part in parts]
    return [
        float(np.abs(own - wanted).max() / np.sqrt(np.square(wanted).mean()))
        for own, wanted in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family: str, dialect: DialectName, tmp_path: Path) -> None:
    model = model_of(family)
    session = Session(model, tmp_path, OnnxForm(dialect=dialect))
    assert max(differences(model, session)) <= TOLERANCE


@pytest.mark.parametrize("dialect", ["fused", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp16(family: str, dialect: DialectName, tmp_path: Path) -> None:
    model = model_of(family)
    session = Session(model, tmp_path, OnnxForm(Precision("fp16"), dialect))
    assert max(differences(model, session)) <= 0.1


_GENAI = """
import json, sys
import onnxruntime_genai as og
found = {}
for family, tokens in json.loads(sys.argv[2]).items():
    model = og.Model(f"{sys.argv[1]}/{family}/onnx")
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=18, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(tokens)
    while not generator.is_done():
        generator.generate_next_token()
    found[family] = list(map(int, generator.get_sequence(0)))
print(json.dumps(found))
"""


@pytest.mark.release
def test_genai_generates_what_transformers_does(tmp_path: Path) -> None:
    prompt, expected = np.random.default_rng(0).integers(3, 96, 8).tolist(), {}
    for family in FAMILIES:
        model, folder = model_of(family), tmp_path / family
        Session(model, folder, OnnxForm())
        expected[family] = [*prompt, *TorchRunner(model).continuation(prompt, 10)]
        config = json.loads((folder / "hf" / "config.json").read_text())
        config["eos_token_id"] = min(set(range(96)) - set(expected[family]))
        (folder / "onnx" / "genai_config.json").write_text(json.dumps(genai_config(model_spec(config), config, None)))
    python = Path(__file__).parents[2] / ".venv-genai" / "bin" / "python"
    command = [python, "-I", "-c", _GENAI, tmp_path, json.dumps(dict.fromkeys(FAMILIES, prompt))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
