"""What has to be seen on a GPU: `make test-gpu` runs this. Speeds are reported, and none is asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from benchmarks.random_model import write_random_model
from benchmarks.shapes import LLAMA_2_7B, Shape
from transformers import AutoModelForCausalLM, AutoTokenizer

from seap_export.common.providers import PROVIDERS, DialectName
from seap_export.pruning.activations.statistics import covariance_bytes
from seap_export.runtime import Generator

Run = Callable[..., Any]
Record = Callable[[str, object], None]
Session = pytest.TempPathFactory

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "seap_export" / "corpus" / "samples" / "arithmetic.jsonl"
#: Those of the paper.
RATIOS = (0.2, 0.5)
WITH_RATIOS = [word for ratio in RATIOS for word in ("--ratio", str(ratio))]
FORMS: list[tuple[str, DialectName]] = [
    *((precision, "fused") for precision in ("fp32", "fp16", "bf16", "int8", "int4")),
    *((precision, "standard") for precision in ("fp32", "fp16", "bf16")),
]
PROMPT, NEW_TOKENS = "Tom has 12 apples and buys 7 more. He gives", 16
#: Logits that differ by less are no clear choice, as in the comparison with torch.
LARGEST_GAP = 0.1
#: What a rehearsal without a GPU takes for models.
SMALL = Shape(layers=4, hidden=128, heads=4, kv_heads=4, neurons=352, vocabulary=512, positions=512)
#: Texts of its export, and prompts that are compared: beyond the 31 tokens from which WebGPU's kernels differ.
FEW_TEXTS = [word for setting in ("held_out=4", "prompts=2", "long_tokens=64") for word in ("--set", setting)]
FEW_PROMPTS = ("--prompts", 2, "--long-tokens", 64)
#: What a session takes on a GPU besides weights and caches.
SESSION_BYTES = 2 * 10**9
GENAI = """
import json, sys
import onnxruntime
import onnxruntime_genai as og
onnxruntime.preload_dlls()  # finds CUDA's libraries among Python's packages, which GenAI does not
model = og.Model(sys.argv[1])
tokens, new = json.loads(sys.argv[2]), int(sys.argv[3])
parameters = og.GeneratorParams(model)
parameters.set_search_options(do_sample=False, max_length=len(tokens) + new)
generator = og.Generator(model, parameters)
generator.append_tokens(tokens)
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps([str(model.device_type), list(map(int, generator.get_sequence(0)))[len(tokens):]]))
"""


class Gpu(NamedTuple):
    provider: str
    rehearses: bool
    run: Run


@pytest.fixture(scope="session")
def gpu(provider: str, rehearses: bool, run: Run) -> Gpu:
    return Gpu(provider, rehearses, run)


@pytest.fixture(scope="session")
def model(rehearses: bool, request: pytest.FixtureRequest, tmp_path_factory: Session) -> Path:
    """SmolLM2-135M, or in a rehearsal a small model with random weights."""
    if not rehearses:
        return Path(request.getfixturevalue("smollm2_gguf"))
    folder = tmp_path_factory.mktemp("model") / "random"
    write_random_model(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def folder(gpu: Gpu, model: Path, tmp_path_factory: Session) -> Path:
    """The variants of a small model that is pruned for the provider, whether or not they pass its checks."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    try:
        _export(gpu, model, out)
    except AssertionError:
        if not all((out / f"arithmetic-{ratio}" / "hf" / "config.json").is_file() for ratio in RATIOS):
            raise
    return out


def _export(gpu: Gpu, model: Path, out: Path) -> None:
    """In floats, so that what is generated can be compared with torch."""
    words = ("--task", f"arithmetic={TEXTS}", "--calibration-tokens", 5500, *WITH_RATIOS, "--provider", gpu.provider)
    precision, few = PROVIDERS[gpu.provider].computes["fused"][0], FEW_TEXTS if gpu.rehearses else ()
    gpu.run("export", model, *words, *few, "--precision", precision, "--out", out)


def test_the_machine(provider: str, machine: Mapping[str, Any], record_property: Record) -> None:
    """The driver, the GPU and ONNX Runtime's libraries work together."""
    record_property("machine", machine)
    assert machine["providers"][provider]["works"], machine["providers"][provider]["failure"]


def test_an_export_with_all_its_checks(gpu: Gpu, model: Path, folder: Path) -> None:
    """A second run makes only what failed in the fixture."""
    _export(gpu, model, folder)


@pytest.mark.parametrize(("precision", "dialect"), FORMS, ids=map("-".join, FORMS))
def test_parity(
    precision: str, dialect: DialectName, gpu: Gpu, folder: Path, tmp_path: Path, record_property: Record
) -> None:
    """The graph computes what torch computes."""
    provider, rehearses, run = gpu
    _skip_unless_computed(provider, precision, dialect)
    hf = folder / f"arithmetic-{RATIOS[-1]}" / "hf"
    form = ("--precision", precision, "--dialect", dialect, "--provider", provider)
    run("convert", hf, *form, "--out", tmp_path / "variant" / "onnx")
    (tmp_path / "variant" / "hf").symlink_to(hf)
    few = FEW_PROMPTS if rehearses else ()
    checked = ("--check", "parity", "--provider", provider, "--prompt-file", TEXTS, *few)
    report = run("validate", tmp_path / "variant", *checked)
    [variant] = report["variants"].values()
    parity = variant["parity"]["onnx"]
    nodes = parity["provider"]["nodes"] or {}
    elsewhere = {name: count for name, count in nodes.items() if name != parity["provider"]["obtained"]}
    figures = {name: parity[name] for name in ("verdict", "mean_kl_nats", "max_abs", "top1_agreement")}
    record_property("parity", [{"form": f"{precision}, {dialect}", **figures, "nodes elsewhere": elsewhere}])
    assert parity["provider"]["obtained"] == PROVIDERS[provider].ort_name


def _skip_unless_computed(provider: str, precision: str, dialect: DialectName = "fused") -> None:
    computed = PROVIDERS[provider].computes.get(dialect, ())
    if precision not in computed and not precision.startswith("int"):
        pytest.skip(f"{provider} has no {precision} in the {dialect} dialect")


def test_generation(provider: str, folder: Path, run: Run, record_property: Record) -> None:
    """The runner chooses the tokens that torch would choose."""
    variant = folder / f"arithmetic-{RATIOS[0]}"
    tokenizer = AutoTokenizer.from_pretrained(variant / "hf")
    prompt = tokenizer(PROMPT)["input_ids"]
    chosen = Generator(variant / "onnx", provider).generate_ids(prompt, NEW_TOKENS)
    told = run("generate", variant, PROMPT, "--raw", "--provider", provider, "--max-new-tokens", NEW_TOKENS)
    assert told["text"] == tokenizer.decode(chosen, skip_special_tokens=True)
    _judge("runner", provider, variant, prompt, chosen, record_property)


def test_genai(provider: str, folder: Path, record_property: Record) -> None:
    """ONNX Runtime GenAI runs the export on the provider, and chooses the tokens that torch would choose."""
    if provider == "webgpu":
        pytest.skip("GenAI's packages have no WebGPU of their own")
    python = ROOT / (".venv-genai" if provider == "cpu" else ".venv-genai-cuda") / "bin" / "python"
    variant = folder / f"arithmetic-{RATIOS[0]}"
    prompt = AutoTokenizer.from_pretrained(variant / "hf")(PROMPT)["input_ids"]
    command = [python, "-I", "-c", GENAI, variant / "onnx", json.dumps(prompt), str(NEW_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    device, chosen = json.loads(done.stdout.splitlines()[-1])
    _judge("GenAI", device, variant, prompt, chosen, record_property)
    assert provider in device.lower()


def _judge(
    program: str, device: str, variant: Path, prompt: Sequence[int], chosen: Sequence[int], record_property: Record
) -> None:
    model = AutoModelForCausalLM.from_pretrained(variant / "hf", dtype=torch.float32, trust_remote_code=True)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *chosen]])).logits[0, len(prompt) - 1 : -1]
    gap = float((logits.max(-1).values - logits[range(len(chosen)), chosen]).max())
    record_property("generation", [{"program": program, "device": device, "largest gap": gap, "tokens": len(chosen)}])
    assert chosen
    assert gap <= LARGEST_GAP


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_speed(precision: str, gpu: Gpu, model: Path, folder: Path, record_property: Record) -> None:
    """Beside the dense model."""
    _skip_unless_computed(gpu.provider, precision)
    variants = [folder / f"arithmetic-{ratio}" for ratio in RATIOS]
    record_property("speed", _timed(gpu, precision, model, variants))


def _timed(gpu: Gpu, precision: str, dense: Path, variants: Sequence[Path]) -> list[dict[str, Any]]:
    few = ("--depth", 16, "--runs", 1, "--steps", 2)
    depths = [word for depth in (128, 512, 2048) for word in ("--depth", depth)]
    size = few if gpu.rehearses else (*depths, "--runs", 9, "--steps", 64)
    how = ("--provider", gpu.provider, "--precision", precision, "--runtime", "onnxruntime", "--batch", 1, *size)
    subjects = gpu.run("bench", *variants, "--dense", dense, *how)["subjects"]
    return [_row(dense.stem, precision, subject, cell) for subject in subjects for cell in subject["cells"]]


def _row(model: str, precision: str, subject: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "variant": subject["model"],
        "precision": precision,
        "on disk": f"{subject['disk_bytes'] / 1e6:.1f} MB",
        "prompt": f"{cell['depth']} tokens",
        "prefill": f"{cell['prefill_s'] * 1e3:.2f} ms",
        "prefill × dense": _times(cell, "prefill"),
        "decode step": f"{cell['decode_step_s'] * 1e3:.3f} ms",
        "decode × dense": _times(cell, "decode"),
        "of ideal": f"{cell['decode_share_of_ideal']:.0%}",
    }


def _times(cell: Mapping[str, Any], what: str) -> str:
    speedup, low, high = (cell[f"{what}_speedup{end}"] for end in ("", "_low", "_high"))
    return f"{speedup:.2f}" if low is None else f"{speedup:.2f} ({low:.2f} to {high:.2f})"


@pytest.fixture(scope="session")
def large(gpu: Gpu, machine: Mapping[str, Any], tmp_path_factory: Session) -> Path:
    """A model in the shape of Llama-2-7B with random weights, pruned by the paper's recipe.

    It is calibrated on a few tokens: speed depends on shapes, and hardly on weights.
    """
    provider, rehearses, run = gpu
    out, shape = tmp_path_factory.mktemp("large"), SMALL if rehearses else LLAMA_2_7B
    needed = 3 * shape.weight_bytes + covariance_bytes(shape.spec)
    if (free := shutil.disk_usage(out).free) < needed:
        pytest.skip(f"it needs {needed / 1e9:.1f} GB of disk space, here are {free / 1e9:.1f}")
    cache = 2 * 2 * shape.layers * shape.kv_heads * shape.spec.head_dim * (2048 + 64)
    on_gpu = shape.weight_bytes + cache + SESSION_BYTES
    gpus = [gpu["memory_bytes"] for gpu in machine["driver"]["gpus"]]
    if gpus and gpus[0] < on_gpu:
        pytest.skip(f"it needs {on_gpu / 1e9:.1f} GB of GPU memory, here are {gpus[0] / 1e9:.1f}")
    write_random_model(out / "dense", shape)
    few = ("--samples", 4, "--held-out", 1, "--max-length", 32)
    run("calibrate", out / "dense", "--task", f"a={TEXTS}", *few, "--out", out / "statistics")
    statistics = ("--calibration", out / "statistics" / "calibration" / "a")
    for ratio in RATIOS:
        variant = out / f"random-{ratio}"
        how = ("--recipe", "seap", "--ratio", ratio, "--provider", provider, "--out", variant / "plan.json")
        run("plan", out / "dense", *statistics, *how)
        run("prune", out / "dense", "--plan", variant / "plan.json", *statistics, "--out", variant / "hf")
    shutil.rmtree(out / "statistics")
    return out


@pytest.mark.parametrize("ratio", RATIOS)
def test_speed_of_a_large_model(ratio: float, gpu: Gpu, large: Path, record_property: Record) -> None:
    precision = PROVIDERS[gpu.provider].computes["fused"][0]
    record_property("speed", _timed(gpu, precision, large / "dense", [large / f"random-{ratio}"]))
