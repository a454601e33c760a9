"""Runs of the command line in this process, and exports that several tests use."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from seap_export.cli import main
from seap_export.common.checksums import SUMS
from support.corpora import TASK_WORDS, micro_texts, write_task_corpora
from support.models import write_micro_model

#: Decoding 16 tokens for each prompt is most of the time of a micro export; tests of the caches ask for more.
FEW_STEPS = {"decode_steps": 2}
#: What an export measures besides takes time, and its times differ from run to run; few tests ask for it.
UNMEASURED: dict[str, Any] = {"quality": False, "speed": False}
#: The same for tests of the Python API, and the texts of `a.jsonl` and `b.jsonl` beside a micro model.
FEW: dict[str, Any] = {**FEW_STEPS, **UNMEASURED, "prompts": 1}
TEXTS = {"a": micro_texts(60), "b": micro_texts(60, seed=5)}
#: Of 60 texts a quarter would be held out.
HELD_OUT = {"held_out": 16}
#: The same for runs in processes of their own, which must write the same.
HELD_OUT_OPTION = ("--set", "held_out=16")
#: What only an export writes into a model folder, once the variant's figures are known, and the lists that name it.
CARD = {"README.md", "recipe.toml", SUMS}


@dataclass(frozen=True)
class Outcome:
    """Exit code (negative after a signal, None after a timeout), stdout and stderr."""

    code: int | None
    out: str
    err: str

    def refused(self, code: int, *keywords: str) -> str:
        """The message of a run that must have ended with that code and one line that holds the keywords.

        The rest of the sentence is not asserted, so that it can be made better.
        """
        assert self.code == code, self
        assert self.err.startswith("Error: "), self
        assert self.err.count("\n") == 1, self
        missing = [keyword for keyword in keywords if keyword.lower() not in self.err.lower()]
        assert missing == [], self.err
        return self.err.removeprefix("Error: ").removesuffix("\n")

    def refused_in_json(self, code: int, *keywords: str) -> None:
        """Likewise with --json: the message is on stdout, too."""
        message = self.refused(code, *keywords)
        assert json.loads(self.out) == {"error": {"message": message, "exit_code": code}}


#: `run("export", ...)`.
Run = Callable[..., Outcome]


def run_here(*arguments: object) -> Outcome:
    """Runs `seap-export ARGUMENTS` in this process; comparisons are short, unless the arguments say more."""
    few = {"export": FEW_STEPS | UNMEASURED | HELD_OUT, "calibrate": HELD_OUT, "validate": FEW_STEPS}
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], default_map=few)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def export_with_router(folder: Path, ratios: tuple[float, ...]) -> Path:
    """An export of tasks a and b and of both together, with a router, in float32 and with all logits."""
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.export import export
    from seap_export.pipeline.request.export_request import ExportRequest

    write_task_corpora(folder)
    source = open_source(str(write_micro_model(folder / "m", model_type="llama")))
    tasks = {task: folder / f"{task}.jsonl" for task in TASK_WORDS}
    how: dict[str, Any] = {"precision": "fp32", "logits": "all", "prompts": 1, "decode_steps": 1, **UNMEASURED}
    export(source, ExportRequest(source.name, tasks, ratio=ratios, general=True, threshold=0.6, **how), folder / "out")
    return folder / "out"


#: What every run writes: what steps took, the search's figures, and the lock.
_ALWAYS_WRITTEN = {"performance.json", "frontier.json", ".seap-export.lock"}


def tree(folder: Path, without: Collection[str] = ("performance.json",)) -> dict[str, bytes]:
    """The content of all files but those of some names; the times in performance.json differ from run to run."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def times_of_writing(*folders: Path) -> dict[Path, tuple[int, int]]:
    """When each file was written, in nanoseconds, and its inode: what a second run leaves untouched keeps both."""
    files = [path for folder in folders for path in (folder, *folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files if path.name not in _ALWAYS_WRITTEN}
