"""A variant that is trained with peft and rounded, as docs/research/measurements.md shows it, on a micro model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support.exports import FEW_STEPS, run_here

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.common.json_file import read_json

PAGE = (Path(__file__).parents[1] / "docs" / "research" / "measurements.md").read_text("utf-8")
SECTION = PAGE.partition("## A variant that is trained")[2].partition("\n## ")[0]
(CODE,) = re.findall(r"^```python\n(.*?)^```", SECTION, flags=re.MULTILINE | re.DOTALL)
(COMMAND,) = re.findall(r"^ {4}seap-export (.+)$", SECTION, flags=re.MULTILINE)
VARIANT = "pruned/maths-0.2/hf"


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
def test_it_learns_and_becomes_a_file_in_4_bits(example_folder: Path) -> None:
    few = [word for name, value in FEW_STEPS.items() for word in ("--set", f"{name}={value}")]
    made = run_here("export", "MODEL", "--task", "maths=maths.jsonl", "--ratio", "0.2", *few, "--out", "pruned")
    assert made.code == 0, made.err
    space: dict[str, Any] = {}
    exec(compile(CODE, "docs/research/measurements.md", "exec"), space)
    assert loss("trained") < 0.95 * loss(VARIANT)
    kept = "num_hidden_layers", "model_type", "hidden_size"
    before, after = (read_json(Path(folder) / "config.json") for folder in (VARIANT, "trained"))
    assert [after[key] for key in kept] == [before[key] for key in kept]
    rounded = run_here(*shlex.split(COMMAND), *few)
    assert rounded.code == 0, rounded.err
    report = read_json(Path("shipped") / "validation.json")
    assert report["verdict"] == "passed"
    (variant,) = report["variants"].values()
    assert variant["formats"]["onnx"]["precision"] == "int4"
    assert variant["num_parameters"] == read_json(Path("pruned") / "validation.json")["variants"]["maths-0.2"][
        "num_parameters"
    ]  # fmt: skip
