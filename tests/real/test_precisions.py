"""SmolLM2-135M pruned, in other precisions and dialects: sizes, and the same tokens in ONNX Runtime GenAI."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seap_export.runtime import Generator

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPT = "Question: What weighs more, a kilogram of iron or a kilogram of feathers?\nAnswer:"
NEW_TOKENS = 12
#: Options of `convert`, and the largest share of the fp32 data that the file may take.
FORMS = {
    "fp32-last": (("--logits", "last"), 1.0),
    "fp32-standard": (("--dialect", "standard"), 1.0),
    "int8-last": (("--precision", "int8", "--logits", "last"), 0.30),
    "int4-last": (("--precision", "int4", "--logits", "last"), 0.17),
    "int4-asymmetric": (("--precision", "int4", "--asymmetric"), 0.18),
}
_GENAI = """
import json, sys
import onnxruntime_genai as og
model = og.Model(sys.argv[1])
tokens, new = json.loads(sys.argv[2]), int(sys.argv[3])
params = og.GeneratorParams(model)
params.set_search_options(do_sample=False, max_length=len(tokens) + new)
generator = og.Generator(model, params)
generator.append_tokens(tokens)
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps(list(map(int, generator.get_sequence(0)))[len(tokens):]))
"""


@pytest.mark.parametrize("form", FORMS)
def test_genai_generates_what_the_runner_does(
    form: str, arithmetic: dict[float, Path], run: Run, tmp_path: Path
) -> None:
    options, share = FORMS[form]
    variant, folder = arithmetic[0.5], tmp_path / form
    run("convert", variant / "hf", *options, "--out", folder)
    size, whole = ((path / "model.onnx.data").stat().st_size for path in (folder, variant / "onnx"))
    assert size <= share * whole

    generator = Generator(folder)
    tokens = generator.token_ids(PROMPT)
    generated = generator.generate_ids(tokens, NEW_TOKENS)
    if form.startswith("fp32"):
        assert generated == Generator(variant / "onnx").generate_ids(tokens, NEW_TOKENS)
    python = ROOT / ".venv-genai" / "bin" / "python"
    command = [python, "-I", "-c", _GENAI, str(folder), json.dumps(tokens), str(NEW_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[: len(generated)] == generated
