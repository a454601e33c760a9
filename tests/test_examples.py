"""Programs and commands of the pages and docstrings on a micro model; `tests/real/` runs those of the demo."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.exports import FEW_STEPS, run_here
from support.models import write_micro_model
from support.tokenizers import write_byte_level

from seap_export import Variant, convert, evaluate, export, prune, push, validate
from seap_export.cli import main
from seap_export.common.json_file import read_json

ROOT = Path(__file__).parents[1]
README, PYTHON_PAGE, MEASUREMENTS = (
    (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/python.md", "docs/research/measurements.md")
)


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


#: For a model of the hub, as printed, and for a model of the user's: what meets a target, what writes several formats.
OF_HUB = [line for block in blocks("sh", README) for line in block.splitlines() if line.startswith("seap-export ")]
COMMANDS = re.findall(r"^ {4}(seap-export .+)$", README, flags=re.MULTILINE)
(FITTING,) = (command for command in COMMANDS if "--target-size" in command)
WRITING = [command for command in COMMANDS if command != FITTING]
TARGETS = re.findall(r"`(--(?:target|max)-[\w-]+ [\d.]+)`", README)
(VALIDATING,) = re.findall(r"`(validate --runtime [\w.]+)`", README)


def run(command: str, *more: str) -> str:
    program, *words = shlex.split(command)
    assert program == "seap-export"
    result = CliRunner().invoke(main, [*words, *more], default_map=dict.fromkeys(("export", "validate"), FEW_STEPS))
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.release
def test_the_readmes_commands_for_a_model_of_the_hub(tmp_path: Path) -> None:
    """In an empty folder; the hub's cache has a micro model under the name of the real one."""
    cached = tmp_path / "hub" / f"models--{OF_HUB[0].split()[2].replace('/', '--')}"
    work, snapshot = tmp_path / "empty", cached / "snapshots" / ("0" * 40)
    for folder in (work, snapshot, cached / "refs"):
        folder.mkdir(parents=True)
    (cached / "refs" / "main").write_text(snapshot.name, "utf-8")
    write_micro_model(snapshot, model_type="llama", vocab_size=130, max_position_embeddings=1024)
    write_byte_level(snapshot)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for command in OF_HUB:
        words = shlex.split(command)
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    assert {path.name for path in work.iterdir()} == {"jobs", "report.html"}
    assert len(OF_HUB) == 3


@pytest.mark.release
def test_the_readmes_budget(example_folder: Path) -> None:
    assert "chosen" in run(FITTING)
    assert (example_folder / "fitted" / "frontier.json").is_file()


@pytest.mark.usefixtures("example_folder")
def test_the_readmes_other_targets_work_in_the_same_way() -> None:
    assert len(TARGETS) == 2
    assert run(re.sub(r"--target-size \S+", " ".join(TARGETS), FITTING), "--dry-run")


@pytest.mark.release
@pytest.mark.needs("llama.cpp", "openvino")
def test_the_readmes_formats(example_folder: Path) -> None:
    """One command goes on with what another has made."""
    assert len(WRITING) == 2
    assert all(map(run, WRITING))
    written = {path.name for path in (example_folder / "pruned" / "maths-0.5").iterdir() if path.is_dir()}
    assert written == {"hf", "gguf", "openvino", "web"}
    assert "passed" in run(f"seap-export {VALIDATING}", "pruned")


@pytest.mark.release
def test_the_programs_of_the_python_page_run(example_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {}
    shown = blocks("python", PYTHON_PAGE)
    for block in shown:
        exec(compile(block, "docs/python.md", "exec"), space)
    assert len(shown) == 6
    assert {variant.name for variant in space["result"].variants.values()} == {"maths-0.2"}
    assert capsys.readouterr().out.count("\n") >= 4
    for written in ("pruned/maths-0.2/onnx", "both/general-0.5/onnx", "report.html", "shrunk", "maths-int4"):
        assert (example_folder / written).exists(), written


@pytest.mark.release
@pytest.mark.usefixtures("example_folder")
def test_the_program_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python", README)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.release
def test_the_examples_of_the_docstrings_run(example_folder: Path) -> None:
    for documented in (export, prune, push, convert, validate, evaluate, Variant):
        examples = doctest.DocTestParser().get_examples(documented.__doc__ or "")
        assert 2 <= len(examples) <= 10
        space: dict[str, Any] = {}
        for example in examples:
            exec(compile(example.source, documented.__name__, "exec"), space)
    assert (example_folder / "pruned" / "maths-0.5" / "onnx").is_dir()
    assert (example_folder / "maths-int4" / "model.onnx").is_file()


@torch.no_grad()
def loss(folder: str) -> float:
    """Nats per token on the texts that were trained on."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [json.loads(line)["text"] for line in Path("maths.jsonl").read_text("utf-8").splitlines()][:20]
    ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    return sum(float(model(input_ids=each, labels=each).loss) for each in ids) / len(ids)


@pytest.mark.release
@pytest.mark.usefixtures("example_folder")
def test_a_variant_learns_with_peft_and_becomes_a_file_in_4_bits() -> None:
    shown = MEASUREMENTS.partition("## A variant that is trained")[2].partition("\n## ")[0]
    (code,), (command,) = blocks("python", shown), re.findall(r"^ {4}seap-export (.+)$", shown, flags=re.MULTILINE)
    few = [word for name, value in FEW_STEPS.items() for word in ("--set", f"{name}={value}")]
    made = run_here("export", "MODEL", "--task", "maths=maths.jsonl", "--ratio", "0.2", *few, "--out", "pruned")
    assert made.code == 0, made.err
    exec(compile(code, "docs/research/measurements.md", "exec"), {})
    dense = "pruned/maths-0.2/hf"
    assert loss("trained") < 0.95 * loss(dense)
    before, after = (read_json(Path(folder) / "config.json") for folder in (dense, "trained"))
    assert all(after[key] == before[key] for key in ("num_hidden_layers", "model_type", "hidden_size"))
    rounded = run_here(*shlex.split(command), *few)
    assert rounded.code == 0, rounded.err
    report = read_json(Path("shipped") / "validation.json")
    assert report["verdict"] == "passed"
    (variant,) = report["variants"].values()
    assert variant["formats"]["onnx"]["precision"] == "int4"
    pruned = read_json(Path("pruned") / "validation.json")["variants"]["maths-0.2"]
    assert variant["num_parameters"] == pruned["num_parameters"]
