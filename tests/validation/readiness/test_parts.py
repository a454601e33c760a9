"""The programs of the run: a random model, GenAI's tokens against ours, the profile of a step."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks.random_model import write_random_model
from click.testing import CliRunner
from support.exports import run_here
from support.product import OnnxDecoder

from seap_export.runtime import Generator
from validation.readiness.genai_gaps import genai_gaps
from validation.readiness.profile import profile, summary
from validation.shapes import Shape

SHAPE = Shape(layers=2, hidden=32, heads=2, kv_heads=2, neurons=48, vocabulary=300, positions=128)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_random_model(folder, SHAPE, seed=1)
    return folder


@pytest.fixture(scope="module")
def graph(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graph") / "onnx"
    assert run_here("convert", random_model, "--out", out).code == 0
    return out


def gaps_of(graph: Path, tmp_path: Path, generated: list[int], device: str = "CPU") -> tuple[int, str]:
    chosen = {"version": "0", "device": device, "prompt": [5, 6, 7], "generated": generated, "text": ""}
    (tmp_path / "tokens.json").write_text(json.dumps(chosen), "utf-8")
    words = [str(graph), str(tmp_path / "tokens.json"), "--provider", "cpu", "--out", str(tmp_path / "gaps.json")]
    done = CliRunner().invoke(genai_gaps, words)
    return done.exit_code, done.output


def test_our_own_tokens_have_no_gap(graph: Path, tmp_path: Path) -> None:
    generated = Generator(graph).generate_ids([5, 6, 7], 6)
    assert gaps_of(graph, tmp_path, generated)[0] == 0
    gaps = json.loads((tmp_path / "gaps.json").read_text("utf-8"))
    assert (gaps["largest_gap"], gaps["reasons"]) == (0.0, [])


def test_a_token_that_is_not_likely_fails(graph: Path, tmp_path: Path) -> None:
    [best] = Generator(graph).generate_ids([5, 6, 7], 1)
    code, output = gaps_of(graph, tmp_path, [(best + 1) % SHAPE.vocabulary])
    assert (code, "below" in output) == (3, True)


def test_the_wrong_device_fails(graph: Path, tmp_path: Path) -> None:
    code, output = gaps_of(graph, tmp_path, Generator(graph).generate_ids([5, 6, 7], 2), device="CUDA")
    assert (code, "instead of cpu" in output) == (3, True)


def test_no_token_fails(graph: Path, tmp_path: Path) -> None:
    assert gaps_of(graph, tmp_path, [])[0] == 7


@pytest.mark.parametrize(("value", "words"), [(0.0, "all the same"), (np.nan, "not finite")])
def test_logits_that_say_nothing_fail(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, words: str
) -> None:
    dull = SimpleNamespace(logits=np.full((1, SHAPE.vocabulary), value, np.float32), step=lambda tokens: None)
    monkeypatch.setattr(OnnxDecoder, "start", lambda *arguments: dull)
    code, output = gaps_of(graph, tmp_path, [0])
    assert (code, words in output) == (7, True)


def test_the_profile_counts_a_decode_step(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "profile"
    folder.mkdir()
    monkeypatch.setenv("SEAP_EXPORT_PROFILE", str(folder))
    assert run_here("generate", graph, "ab", "--max-new-tokens", 3).code == 0
    out = tmp_path / "summary.json"
    done = CliRunner().invoke(profile, [str(folder), "--copy", str(tmp_path / "copy.json"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    figures = json.loads(out.read_text("utf-8"))
    assert len(figures["calls"]) == 3
    assert figures["step"]["CPUExecutionProvider"]["GroupQueryAttention"] == SHAPE.layers
    assert (tmp_path / "copy.json").is_file()


def test_no_profile_is_refused(tmp_path: Path) -> None:
    words = [str(tmp_path), "--copy", str(tmp_path / "copy.json"), "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(profile, words)
    assert (done.exit_code, "0 profiles" in done.output) == (1, True)


def test_replayed_calls_have_no_nodes() -> None:
    def call(start: int) -> dict[str, object]:
        return {"cat": "Session", "name": "model_run", "ts": start, "dur": 10}

    def node(start: int, operator: str) -> dict[str, object]:
        args = {"op_name": operator, "provider": "CUDAExecutionProvider"}
        return {"cat": "Node", "name": f"{operator}_kernel_time", "ts": start, "dur": 2, "args": args}

    events = [call(0), node(1, "MatMul"), call(20), node(21, "MatMul"), node(24, "Cast"), node(27, "Cast"), call(40)]
    figures = summary(events)
    assert [replayed["nodes"] for replayed in figures["calls"]] == [1, 3, 0]
    assert figures["step"] == {"CUDAExecutionProvider": {"Cast": 2, "MatMul": 1}}
    assert figures["microseconds"] == {"Cast": 4, "MatMul": 2}
