"""What a candidate is judged by before it is made."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.models import micro_source
from support.product import (
    USUAL,
    Compute,
    ExportRequest,
    Frontier,
    Guess,
    OnnxFormat,
    Silent,
    StepContext,
    Targets,
    Workspace,
)

from seap_export.corpus import Task
from seap_export.pipeline.budget import candidates
from seap_export.pipeline.budget.candidates import Candidates
from seap_export.pipeline.targets.frontier import frontier_json, write_frontier

NEW = replace(USUAL, pruned=((0.25, 0.5),))


class Step:
    """Stands for the step that guesses."""

    made = 0

    def __init__(self, ranking: Any, grid: Any) -> None:
        self.key = ranking.key

    def read(self, folder: Path) -> Guess:
        return NEW


def test_a_guess_from_other_inputs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(steps: Any, made: Any) -> None:
        Step.made += 1

    monkeypatch.setattr(candidates, "GuessStep", Step)
    monkeypatch.setattr(candidates, "run_steps", made)
    frontier = Frontier((), None, guess={"key": "one", **USUAL.to_json()})
    write_frontier(frontier_json(Targets(size=9), "onnx fp32", {"a": frontier}), tmp_path)
    formats = OnnxFormat("fp32"), OnnxFormat("mixed-4.5")
    request = ExportRequest((Task("a", Path("a.jsonl")),), (), formats=formats, targets=Targets(size=9))
    work = StepContext(micro_source(tmp_path / "dense"), tmp_path, Compute(), Silent())
    hidden = {"all": Workspace(tmp_path / "hidden", force=True)}
    with ExitStack() as stack:
        found = Candidates(request, formats[0], work, hidden, {}, {}, {}, stack)  # type: ignore[arg-type]

        def guess(key: str) -> Guess:
            return found.guess(SimpleNamespace(key=key, mixture=SimpleNamespace(name="a")))  # type: ignore[arg-type]

        assert (guess("one"), Step.made) == (USUAL, 0)
        assert (guess("two"), Step.made) == (NEW, 1)
        assert found.guesses == {"a": {"key": "two", **NEW.to_json()}}
