"""Generation loops, each in a process of its own: they are given the same, and their tokens are looked at."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks.peers.artifacts import Environments
from benchmarks.peers.contest import Passage, choose_passage
from benchmarks.peers.loops import Loop, all_loops, prepare, run_loops

from seap_export.errors import ArtifactError

ROOT = Path(__file__).parents[3]
GENAI = ROOT / ".venv-genai" / "bin" / "python"
ENVIRONMENTS = Environments(Path(sys.executable), GENAI)


@pytest.fixture
def passage(graphs: dict[str, Path]) -> Passage:
    return choose_passage(graphs["ours"], 1, vocabulary=96, prompt_tokens=12, steps=3)


@pytest.fixture
def folder(graphs: dict[str, Path], passage: Passage, tmp_path: Path) -> Path:
    """Our artifact, prepared."""
    copy = shutil.copytree(graphs["last"].parent, tmp_path / "onnx")
    prepare(copy, 1, passage.unlikely)
    return copy


def _loops(folder: Path) -> list[Loop]:
    """Ours in the runner and in GenAI, in fp32."""
    names = (f"{writer}-{form}" for writer in ("ours", "genai") for form in ("fp32", "int8", "int4"))
    folders = {f"{name}{logits}": folder for name in names for logits in ("", "-last")}
    return [loop for loop in all_loops(folders, ENVIRONMENTS) if loop.name.startswith("ours-fp32-last, ")]


def _stub(precision: str, tokens: list[int]) -> Loop:
    answer = json.dumps({"prefills": [1.0], "steps": [2.0], "tokens": tokens})
    return Loop("stub", precision, Path("/none"), (sys.executable, "-c", f"print('noise'); print('{answer}')"))


def test_four_loops_of_each_precision() -> None:
    names = (f"{writer}-{form}" for writer in ("ours", "genai") for form in ("fp32", "int8", "int4"))
    loops = all_loops({f"{name}{logits}": Path(name) for name in names for logits in ("", "-last")}, ENVIRONMENTS)
    assert [loop.name for loop in loops if loop.precision == "int4"] == [
        "ours-int4-last, runner",
        "genai-int4, GenAI",
        "genai-int4-last, GenAI",
        "ours-int4-last, GenAI",
    ]
    assert len(loops) == 12


def test_the_folder_says_threads_and_the_end(folder: Path, passage: Passage) -> None:
    model = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]
    assert model["eos_token_id"] == passage.unlikely
    assert model["decoder"]["session_options"]["intra_op_num_threads"] == 1


def test_the_runner_gives_the_passages_tokens(folder: Path, passage: Passage, tmp_path: Path) -> None:
    runner = _loops(folder)[0]
    (result,) = run_loops([runner], passage, tmp_path, threads=1, rounds=2).values()
    assert result.tokens == list(passage.tokens)
    assert len(result.timing.steps) == 3 * len(result.timing.prefills) > 0


@pytest.mark.full
def test_genai_gives_the_passages_tokens(folder: Path, passage: Passage, tmp_path: Path) -> None:
    runner, genai = _loops(folder)
    assert (runner.command[0], genai.command[0]) == (sys.executable, str(GENAI))
    results = run_loops([runner, genai], passage, tmp_path, threads=1, rounds=1)
    one, other = (results[loop.name] for loop in (runner, genai))
    assert one.tokens == other.tokens
    assert len(one.timing.steps) == len(other.timing.steps)


def test_other_tokens_are_refused_in_fp32_only(passage: Passage, tmp_path: Path) -> None:
    changed = [*passage.tokens[:-1], passage.unlikely]
    results = run_loops([_stub("int4", changed)], passage, tmp_path, threads=1, rounds=2)
    assert results["stub"].timing.steps == [2.0, 2.0]
    with pytest.raises(ArtifactError, match=r"^stub gave \["):
        run_loops([_stub("fp32", changed)], passage, tmp_path, threads=1, rounds=1)


def test_a_loop_that_ends_early_or_fails_is_an_error(passage: Passage, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="stub gave 1 tokens, not 4"):
        run_loops([_stub("int4", [1])], passage, tmp_path, threads=1, rounds=1)
    bad = Loop("bad", "fp32", Path("/none"), (sys.executable, "-c", "raise SystemExit('no such thing')"))
    with pytest.raises(ArtifactError, match="bad failed: no such thing"):
        run_loops([bad], passage, tmp_path, threads=1, rounds=1)
