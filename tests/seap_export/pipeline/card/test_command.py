"""The command that makes a whole model is one that `export` takes."""

from __future__ import annotations

import shlex
from pathlib import Path

from support.product import ExportRequest, MixtureSpec

from seap_export.corpus import Task
from seap_export.pipeline.card.command import whole_command
from seap_export.pipeline.request.mixtures import Support

TASKS = (Task("a", Path("a.jsonl"), given_as="a.jsonl"), Task("b", Path("my b.jsonl"), given_as="my b.jsonl"))


def command(request: ExportRequest, mixture: str, options: dict[str, str] | None = None) -> list[str]:
    line = whole_command("MODEL", request, mixture, "int4", options or {}, lambda task: task.given_as, "out/")
    program, verb, model, *rest = shlex.split(line)
    assert (program, verb, model, rest[-6:]) == (
        *("seap-export", "export", "MODEL"),
        ["--ratio", "0", "--precision", "int4", "--out", f"out-{mixture}-int4"],
    )
    return rest[:-6]


def test_weights_mixes_and_support_are_repeated() -> None:
    mixtures = MixtureSpec("general", {"a": 1.0, "b": 2.0}), MixtureSpec("both", {"a": 0.1, "b": 1.0})
    request = ExportRequest(
        TASKS, (0.2,), mixtures, support=Support(Task("support", Path("s"), given_as="s.txt"), 0.3)
    )
    tasks = ["--task", "a=a.jsonl", "--task", "b=my b.jsonl", "--support", "s.txt:0.3"]
    assert command(request, "general") == [*tasks, "--general", "--set", "weight.b=2.0"]
    assert command(request, "both") == [*tasks, "--set", "mix.both.a=0.1", "--set", "mix.both.b=1.0"]
