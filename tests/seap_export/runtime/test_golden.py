"""A golden file holds a variant to its numbers; the runtime works where torch is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.corpora import task_texts

from seap_export.errors import ArtifactError
from seap_export.runtime import Generator, golden
from seap_export.runtime.golden import GoldenComparison, compare_with_golden, write_golden

PROMPTS = ["the cat", "a dog sat on", "home"]
LIMIT = 1e-3


@pytest.fixture
def compared(pristine: Path, tmp_path: Path) -> Callable[..., GoldenComparison]:
    """With one recorded number, of the batch's second row after the last step, raised if a part is named."""

    def compare(figure: str = "max_abs", limit: float = LIMIT, part: str = "", by: float = 0.0) -> GoldenComparison:
        onnx, path = pristine / "a-0.2" / "onnx", tmp_path / "golden.npz"
        write_golden(onnx, path, PROMPTS, 3, (figure, limit), threads=1)
        if part:
            arrays: dict[str, Any] = dict(np.load(path))
            arrays[f"{part}.{len(PROMPTS)}"][-1, 1, 0] += by
            np.savez(path, **arrays)
        return compare_with_golden(onnx, path, threads=1)

    return compare


@pytest.mark.parametrize("part", ["top_logits", "spread_logits"])
def test_one_logit_beyond_the_limit_fails(compared: Callable[..., GoldenComparison], part: str) -> None:
    same = compared()
    assert (same.reasons, same.max_abs) == ((), 0.0)
    assert same.tokens == 4 * 2 * len(PROMPTS)  # each prompt alone and in the batch, and three steps
    below, above = (compared(part=part, by=factor * LIMIT) for factor in (0.9, 1.1))
    assert (below.max_abs, above.max_abs) == pytest.approx((0.9 * LIMIT, 1.1 * LIMIT), rel=0.05)
    assert below.reasons == ()
    (reason,) = above.reasons
    assert reason.startswith("max_abs 0.0011 > 0.001")


def test_a_divergence_beyond_the_limit_fails(compared: Callable[..., GoldenComparison]) -> None:
    divergence = compared("mean_kl", 1.0, "top_logits", 1.0).mean_kl
    assert divergence > 0
    assert compared("mean_kl", 1.01 * divergence, "top_logits", 1.0).reasons == ()
    (reason,) = compared("mean_kl", 0.99 * divergence, "top_logits", 1.0).reasons
    assert reason.startswith("mean_kl ")


@pytest.mark.parametrize(("figure", "value"), [("max_abs", np.nan), ("mean_kl", np.inf)])
def test_a_logit_that_is_not_finite_fails_at_any_limit(
    compared: Callable[..., GoldenComparison], monkeypatch: pytest.MonkeyPatch, figure: str, value: float
) -> None:
    ran = golden._run

    def run(decoder: Any, rows: list[list[int]], steps: int, forced: list[list[int]]) -> Any:
        is_comparison = len(forced) == steps
        for logits in ran(decoder, rows, steps, forced):
            if is_comparison and len(rows) > 1:
                logits = logits.copy()
                logits[1, 5] = value
            yield logits

    monkeypatch.setattr(golden, "_run", run)
    reasons = compared(figure, 1e30).reasons
    assert reasons == tuple(f"NaN or infinite logits in case 3, step {step}" for step in range(4))


def test_other_token_ids_are_refused(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, encode = pristine / "a-0.2" / "onnx", golden.encode
    write_golden(onnx, tmp_path / "golden.npz", PROMPTS, 3, ("max_abs", LIMIT), threads=1)
    monkeypatch.setattr(golden, "encode", lambda coder, text: encode(coder, text.replace(PROMPTS[-1], "mat")))
    with pytest.raises(ArtifactError, match="its tokenizer gives other token ids here"):
        compare_with_golden(onnx, tmp_path / "golden.npz", threads=1)


ROOT = Path(__file__).parents[3]
BLOCKED = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torch", "transformers", "sklearn", "safetensors", "onnx", "onnx_ir", "scipy"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""
PROGRAM = """
from seap_export.cli import main
from seap_export.runtime import RoutedModel
model = RoutedModel(sys.argv[1])
print(json.dumps([model.route(sys.argv[2]).task, model.generate(sys.argv[2], 8)]))
main(sys.argv[3:])
"""


def test_routes_generates_and_compares_without_torch(pristine: Path, tmp_path: Path) -> None:
    folder, golden, prompt = pristine / "a-0.2" / "onnx", tmp_path / "golden.npz", task_texts("b", 1, seed=9)[0]
    write_golden(folder, golden, ["the cat sat", "a dog ran far"], 4, ("max_abs", 1e-3), threads=1)
    validate = ["validate", str(folder), "--against-golden", str(golden), "--json"]
    command = [sys.executable, "-c", BLOCKED + PROGRAM, str(pristine), prompt, *validate]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    routed, _, report = done.stdout.partition("\n")
    assert json.loads(routed) == ["b", Generator(pristine / "b-0.2" / "onnx").generate(prompt, 8)]
    values = json.loads(report)
    assert (values["verdict"], values["tokens"]) == ("passed", 5 * 4)  # two prompts alone, then both together
