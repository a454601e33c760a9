"""SmolLM2-135M through the whole pipeline: ratios, sizes, parity, reloading, the runtimes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.needs import find
from support.product import KeptHeads, OnnxRunner, open_session, open_source, read_plan
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from seap_export.runtime import Generator

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
TEXTS = [
    "Question: What weighs more, a kilogram of iron or a kilogram of feathers?\nAnswer:",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "In 1969, 12345 people lived there;\n\n\tby 2024 it was 9,876,543 (up 800.15 %).",
    "<|im_start|>user\nHi! It's 7 o'clock, isn't it?<|im_end|>\n<|im_start|>assistant\n",
    "Grüße aus Köln, 你好, 🙂🚀   three   spaces\r\nand a line",
]
PROMPT = "Tom has 12 apples and buys 7 more. He gives"
NEW_TOKENS = 12
#: Options of `convert`, and the largest share of the demo's int4 data that the file may take.
FORMS: dict[str, tuple[tuple[str, ...], float]] = {
    "demo": ((), 1.0),
    "fp32-last": (("--precision", "fp32"), 7.2),
    "fp32-standard": (("--precision", "fp32", "--dialect", "standard"), 7.2),
    "int4-all": (("--precision", "int4", "--logits", "all"), 1.0),
    "int8-last": (("--precision", "int8"), 1.9),
    "int4-asymmetric": (("--precision", "int4", "--asymmetric"), 1.06),
}
#: Those that CI runs.
USUAL = ("demo", "fp32-last", "int8-last")
GOLDEN = json.loads((ROOT / "tests/seap_export/model/sources/smollm2_tokens.json").read_text("utf-8"))


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.full
def test_ratio_0_is_the_source_and_the_refit_stays_nearer_to_it_than_the_paper(
    smollm2_gguf: Path, run: Run, tmp_path: Path
) -> None:
    """Mean KL divergence at ratio 0.5, on texts that nothing was calibrated on."""
    options = ("--ratio", "0", "--ratio", "0.5", "--precision", "fp32", "--no-quality", "--no-speed")
    run("export", smollm2_gguf, "--task", "sample:arithmetic", *options, "--out", tmp_path / "out")
    whole, refitted = (tmp_path / "out" / f"arithmetic-{ratio}" / "hf" for ratio in ("0", "0.5"))
    given = ("--calibration", tmp_path / "out" / "calibration" / "arithmetic")
    run("plan", smollm2_gguf, *given, "--recipe", "seap", "--ratio", "0.5", "--out", tmp_path / "plan.json")
    run("prune", smollm2_gguf, "--plan", tmp_path / "plan.json", *given, "--out", tmp_path / "paper")
    tokenizer, model = AutoTokenizer.from_pretrained(whole), _load(whole)
    for name, tensor in open_source(str(smollm2_gguf)).read_layer(17).items():
        assert torch.equal(model.get_parameter(name), tensor)
    held_out = json.loads((given[1] / "calibration.json").read_text("utf-8"))["held_out"]
    texts = [text["prompt"] + text["completion"] for text in held_out]
    rows = [tokenizer(text, return_tensors="pt").input_ids[:, :128] for text in texts]
    with torch.inference_mode():
        dense, *others = (
            torch.cat([model(ids).logits[0] for ids in rows]).log_softmax(-1)
            for model in (model, _load(refitted), _load(tmp_path / "paper"))
        )
    near, far = (float((dense.exp() * (dense - other)).sum(-1).mean()) for other in others)
    assert 0.0 < near < 0.7 * far


@pytest.mark.release
@pytest.mark.parametrize("part", ["hf", "onnx"])
def test_saved_tokenizers_cut_texts_as_the_source_or_further(demo: Path, part: str) -> None:
    """Nearly all tokens are gone; most orders have as many as before, and every text can still be read and written."""
    tokenizer = AutoTokenizer.from_pretrained(demo / "purchases-0.5" / part)
    assert len(tokenizer) <= 2048
    source = Tokenizer.from_file(str(demo / "router" / "tokenizer.json"))
    record = json.loads((demo / "calibration" / "purchases" / "calibration.json").read_text("utf-8"))
    orders = [held_out["prompt"] for held_out in record["held_out"]]
    as_before = [len(tokenizer(order)["input_ids"]) == len(source.encode(order).ids) for order in orders]
    assert sum(as_before) >= 0.9 * len(orders)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"], strict=True):
        found = tokenizer(text)["input_ids"]
        assert tokenizer.decode(found) == text
        assert len(found) >= len(ids)


@pytest.mark.release
def test_onnx_graph_is_checked_and_small(demo: Path) -> None:
    path = demo / "purchases-0.5" / "onnx" / "model.onnx"
    onnx.checker.check_model(str(path))
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    folded = [node for node in graph.node if set(node.input) <= stored]  # scales, widened when a session is opened
    assert {node.op_type for node in folded} <= {"Cast", "Reshape"}
    assert len(graph.node) - len(folded) <= 400
    keys = [i.type.tensor_type.shape.dim for i in graph.input if i.name.endswith(".key")]
    layers = read_plan(demo / "purchases-0.5" / "plan.json").layers
    assert [(dims[1].dim_value, dims[3].dim_value) for dims in keys] == [
        (len(layer[KeptHeads].groups), 64) for layer in layers
    ]


def _outside(python: Path, code: str, *arguments: str | Path) -> Any:
    """Runs code in another environment and gives what it prints as JSON."""
    if not python.is_file():
        pytest.fail(f"{python.parents[1].name} is missing; 'make test' makes it")
    command = [python, "-I", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


_TRANSFORMERS_4 = """
import json, sys
sys.modules["seap_export"] = None  # the artifact must load without it
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, dtype=torch.float32)
ids = transformers.AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2], return_tensors="pt").input_ids
logits = model.eval()(ids).logits[0, -1].tolist()
print(json.dumps([transformers.__version__, type(model).__name__, ids[0].tolist(), logits]))
"""


@pytest.mark.release
def test_artifact_loads_in_transformers_4_57_as_remote_code(demo: Path) -> None:
    folder = demo / "purchases-0.5" / "hf"
    python = ROOT / ".venv-transformers4" / "bin" / "python"
    version, name, ids, logits = _outside(python, _TRANSFORMERS_4, folder, TEXTS[2])
    assert version.startswith("4.57.")
    assert name == "SeapLlamaForCausalLM"
    assert ids == AutoTokenizer.from_pretrained(folder)(TEXTS[2])["input_ids"]
    with torch.inference_mode():
        expected = _load(folder)(torch.tensor([ids])).logits[0, -1]
    assert (torch.tensor(logits) - expected).abs().max() < 1e-3


_GENAI = """
import json, sys
import onnxruntime_genai as og
model = og.Model(sys.argv[1])
tokenizer, texts, tokens, new = og.Tokenizer(model), *map(json.loads, sys.argv[2:])
params = og.GeneratorParams(model)
params.set_search_options(do_sample=False, max_length=len(tokens) + new)
generator = og.Generator(model, params)
generator.append_tokens(tokens)
while not generator.is_done():
    generator.generate_next_token()
generated = list(map(int, generator.get_sequence(0)))[len(tokens):]
print(json.dumps([[list(map(int, tokenizer.encode(text))) for text in texts], generated]))
"""


def _gaps(folder: Path, prompt: list[int], generated: list[int]) -> list[float]:
    """How far below the largest logit of this environment's ONNX Runtime each token is that another one chose.

    Products with rounded activations are rounded in another way by another release, so the largest two may swap.
    """
    runner = OnnxRunner(open_session(folder / "model.onnx"))
    logits = runner.prefill(np.array([prompt], np.int64), [len(prompt)], len(generated))[:, -1]
    gaps = []
    for token in generated:
        gaps.append(float(logits[0].max() - logits[0, token]))
        logits = runner.step([token])
    return gaps


@pytest.mark.parametrize(
    "form", [pytest.param(name, marks=pytest.mark.release if name in USUAL else pytest.mark.full) for name in FORMS]
)
def test_genai_chooses_what_the_runner_would(form: str, demo: Path, run: Run, tmp_path: Path) -> None:
    options, share = FORMS[form]
    variant, folder = demo / "purchases-0.5", tmp_path / form
    if options:
        run("convert", variant / "hf", *options, "--out", folder)
    else:
        folder = variant / "onnx"
    size, whole = ((path / "model.onnx.data").stat().st_size for path in (folder, variant / "onnx"))
    assert size <= share * whole
    tokens = Generator(folder).token_ids(PROMPT)
    given = (json.dumps(each) for each in (TEXTS, tokens, NEW_TOKENS))
    ids, generated = _outside(ROOT / ".venv-genai" / "bin" / "python", _GENAI, folder, *given)
    tokenizer = AutoTokenizer.from_pretrained(variant / "hf")
    assert ids == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert generated
    ours = Generator(folder).generate_ids(tokens, NEW_TOKENS)
    if form.startswith("fp32"):
        assert ours[: len(generated)] == generated  # GenAI leaves the end token out
        model = _load(variant / "hf")
        expected = model.generate(torch.tensor([tokens]), max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
        assert ours == expected[len(tokens) :]
    if form == "int4-all":
        assert ours == Generator(variant / "onnx").generate_ids(tokens, NEW_TOKENS)
    assert max(_gaps(folder, tokens, generated)) < (1e-3 if form.startswith("fp32") else 1.0)


@pytest.mark.release
@pytest.mark.needs("c++", "genai-library")
def test_the_sample_in_cpp_answers_as_the_runner(demo: Path, tmp_path: Path) -> None:
    folder, genai, program = demo / "purchases-0.5" / "onnx", Path(str(find("genai-library"))), tmp_path / "answer"
    options = ("-I", genai / "include", "-L", genai / "lib", "-lonnxruntime-genai", f"-Wl,-rpath,{genai / 'lib'}")
    source = ROOT / "samples" / "cpp" / "answer.cpp"
    subprocess.run(("c++", "-std=c++20", source, *options, "-o", program), check=True)
    prompt = 'Tom says: "I have 5 apples."\nHe eats 2. How many are left?'
    answer = subprocess.run((program, folder, prompt, "16"), check=True, capture_output=True, text=True).stdout
    assert answer == Generator(folder).generate(prompt, 16, raw=False) + "\n"
