"""A step of a run: commands, what they need, and what became of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["passed", "failed", "blocked", "skipped", "interrupted"]


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: The program and its arguments.
        saves: File that receives what the command prints to stdout; None: it goes into the log.
        environment: Variables that are set for it.
        is_optional: Whether the step goes on when the command fails, and may pass.
    """

    words: tuple[str, ...]
    saves: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    is_optional: bool = False

    @property
    def line(self) -> str:
        """The command as one types it into a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        target = [">", shlex.quote(str(self.saves))] if self.saves else []
        return " ".join([*settings, shlex.join(self.words), *target])


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other until one fails.

    Attributes:
        name: A short name, also of the log.
        purpose: What the step shows, in one line.
        commands: The commands.
        after: Files that earlier steps must have left.
        replaces: Folder that it writes anew, so that what an earlier run left there counts as free space.
        disk_bytes: Free space that it needs, in the folder of the work.
        memory_bytes: Free memory that it needs.
        gpu_bytes: Memory of the GPU that it needs.
    """

    name: str
    purpose: str
    commands: tuple[Command, ...]
    after: tuple[Path, ...] = ()
    replaces: Path | None = None
    disk_bytes: int = 0
    memory_bytes: int = 0
    gpu_bytes: int = 0


@dataclass(frozen=True)
class Done:
    """A command that ran: its line, its exit code (negative after a signal) and its seconds."""

    line: str
    exit_code: int | None
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        verdict: "passed" or "failed"; "blocked" if an earlier step did not leave what it needs; "skipped" if the
            machine is too small for it; "interrupted" if somebody stopped it.
        reason: Why it did not pass, in one line; "" if it passed.
        done: The commands that ran.
    """

    verdict: Verdict
    reason: str = ""
    done: tuple[Done, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote."""
        return cls(values["verdict"], values["reason"], tuple(Done(**command) for command in values["done"]))
