"""SmolLM2-135M pruned, in other precisions and dialects: sizes, and what ONNX Runtime GenAI generates."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.product import OnnxRunner, open_session
from transformers import AutoModelForCausalLM

from seap_export.runtime import Generator

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
PROMPT = "Tom has 12 apples and buys 7 more. He gives"
NEW_TOKENS = 12
#: Options of `convert`, and the largest share of the demo's int4 data that the file may take.
FORMS = {
    "fp32-last": (("--precision", "fp32"), 7.2),
    "fp32-standard": (("--precision", "fp32", "--dialect", "standard"), 7.2),
    "int4-all": (("--precision", "int4", "--logits", "all"), 1.0),
    "int8-last": (("--precision", "int8"), 1.9),
    "int4-asymmetric": (("--precision", "int4", "--asymmetric"), 1.06),
}
#: Those that CI runs, beside the demo's own int4.
USUAL = ("fp32-last", "int8-last")
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


def gaps(folder: Path, prompt: list[int], generated: list[int]) -> list[float]:
    """How far below the largest logit of this environment's ONNX Runtime each token is that another one chose.

    Products with rounded activations are rounded in another way by another release, so the largest two may swap.
    """
    runner = OnnxRunner(open_session(folder / "model.onnx"))
    logits = runner.prefill(np.array([prompt], np.int64), [len(prompt)], len(generated))[:, -1]
    gaps_of_tokens = []
    for token in generated:
        gaps_of_tokens.append(float(logits[0].max() - logits[0, token]))
        logits = runner.step([token])
    return gaps_of_tokens


@pytest.mark.parametrize(
    "form", [pytest.param(name, marks=pytest.mark.release if name in USUAL else pytest.mark.full) for name in FORMS]
)
def test_genai_chooses_what_the_runner_would(form: str, demo: Path, run: Run, tmp_path: Path) -> None:
    options, share = FORMS[form]
    variant, folder = demo / "order-0.4", tmp_path / form
    run("convert", variant / "hf", *options, "--out", folder)
    size, whole = ((path / "model.onnx.data").stat().st_size for path in (folder, variant / "onnx"))
    assert size <= share * whole

    tokens = Generator(folder).token_ids(PROMPT)
    python = ROOT / ".venv-genai" / "bin" / "python"
    command = [python, "-I", "-c", _GENAI, str(folder), json.dumps(tokens), str(NEW_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    generated = json.loads(done.stdout.splitlines()[-1])
    assert generated
    if form.startswith("fp32"):
        ours = Generator(folder).generate_ids(tokens, NEW_TOKENS)
        assert ours[: len(generated)] == generated  # GenAI leaves the end token out
        model = AutoModelForCausalLM.from_pretrained(variant / "hf", dtype=torch.float32).eval()
        expected = model.generate(torch.tensor([tokens]), max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
        assert ours == expected[len(tokens) :]
    if form == "int4-all":
        assert Generator(folder).generate_ids(tokens, NEW_TOKENS) == Generator(variant / "onnx").generate_ids(
            tokens, NEW_TOKENS
        )
    assert max(gaps(folder, tokens, generated)) < (1e-3 if form.startswith("fp32") else 1.0)
