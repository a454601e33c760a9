"""Requests whose programs are one script that leaves what the real programs leave, and fails where it is told to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from validation.readiness.request import Programs, Request
from validation.shapes import Shape

#: A model that is written in no time.
SMALL = Shape(layers=2, hidden=32, heads=2, kv_heads=2, neurons=48, vocabulary=300, positions=128)
_PROGRAM = Path(__file__).with_name("pretend.py")


@pytest.fixture
def pretended(tmp_path: Path) -> Callable[..., Request]:
    """`pretended({"bench": 5})`: a request whose `bench` ends with 5; a negative number is a signal."""

    def make(failing: dict[str, int] | None = None, provider: str = "cuda", **options: object) -> Request:
        (tmp_path / "failing.json").write_text(json.dumps(failing or {}), "utf-8")

        def program(name: str) -> tuple[str, ...]:
            return (sys.executable, "-IS", str(_PROGRAM), str(tmp_path / "failing.json"), name)

        programs = Programs(*map(program, ("seap-export", "python", "genai", "make", "nvidia-smi")))
        folders = {"out": tmp_path / "report", "work": tmp_path / "work"}
        return Request(programs, "model.gguf", tmp_path / "texts.jsonl", provider, large=SMALL, **folders, **options)

    return make
