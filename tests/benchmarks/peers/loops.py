"""Compares whole generation loops: this package's runner and ONNX Runtime GenAI, in separate processes in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.artifacts import Environments
from benchmarks.peers.contest import Passage, rotated

from seap_export.common.checksums import SUMS, write_checksums
from seap_export.errors import ArtifactError
from validation.speed.measure import Timing

_WARM_UP = 1
_RUNS_A_PROCESS = 3


@dataclass(frozen=True)
class Loop:
    """A loop with an artifact.

    Attributes:
        name: "artifact, loop".
        precision: Precision of the artifact.
        folder: Folder of the artifact.
        command: Command that times it; folder and request file are appended.
    """

    name: str
    precision: str
    folder: Path
    command: tuple[str, ...]


@dataclass
class LoopResult:
    """Times of all processes of a loop, and the tokens of the last one."""

    timing: Timing = field(default_factory=Timing)
    tokens: list[int] = field(default_factory=list)


def all_loops(folders: Mapping[str, Path], environments: Environments) -> list[Loop]:
    """For each precision: our artifact in our runner, the builder's in GenAI, ours in GenAI."""
    script = str(Path(__file__).parent / "loop.py")
    runner = (str(environments.main), "-I", script, "runner")
    genai = (str(environments.genai), "-I", script, "genai")
    loops = []
    for precision in ("fp32", "int8", "int4"):
        ours, theirs = f"ours-{precision}-last", f"genai-{precision}"
        loops += [
            Loop(f"{artifact}, {name}", precision, folders[artifact], command)
            for artifact, name, command in (
                (ours, "runner", runner),
                (theirs, "GenAI", genai),
                (f"{theirs}-last", "GenAI", genai),
                (ours, "GenAI", genai),
            )
        ]
    return loops


def prepare(folder: Path, threads: int, end: int) -> None:
    """Edits an artifact's genai_config.json: sets the threads, and makes `end` the only end-of-text token.

    A text that ended early would have fewer tokens to time, and GenAI needs an existing token.
    """
    path = folder / "genai_config.json"
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    config["model"]["eos_token_id"] = end
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8", newline="\n")
    if (folder / SUMS).exists():
        write_checksums(folder)


def run_loops(
    loops: Sequence[Loop], passage: Passage, scratch: Path, *, threads: int, rounds: int
) -> dict[str, LoopResult]:
    """Runs every loop once per round, in a separate process.

    Args:
        loops: Loops with prepared folders.
        passage: The prompt, and the tokens that must follow it in fp32.
        scratch: A folder for the request.
        threads: Threads of the runner; GenAI's are set in the folder.
        rounds: Processes of each loop.

    Raises:
        ArtifactError: A loop failed, ended early, or in fp32 gave other tokens.
    """
    request = scratch / "request.json"
    asked = {
        "prompt": list(passage.prompt),
        "new_tokens": len(passage.tokens),
        "threads": threads,
        "warm_up": _WARM_UP,
        "runs": _RUNS_A_PROCESS,
    }
    request.write_text(json.dumps(asked), "utf-8", newline="\n")
    results = {loop.name: LoopResult() for loop in loops}
    by_name = {loop.name: loop for loop in loops}
    for turn in range(rounds):
        for name in rotated(by_name, turn):
            _add(results[name], by_name[name], request, passage)
    return results


def _add(result: LoopResult, loop: Loop, request: Path, passage: Passage) -> None:
    print(f"running {loop.name}", file=sys.stderr)
    command = [*loop.command, str(loop.folder), str(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArtifactError(f"{loop.name} failed: {reason}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if len(answer["tokens"]) != len(passage.tokens):
        raise ArtifactError(f"{loop.name} gave {len(answer['tokens'])} tokens, not {len(passage.tokens)}")
    if loop.precision == "fp32" and answer["tokens"] != list(passage.tokens):
        raise ArtifactError(f"{loop.name} gave {answer['tokens']}, not {list(passage.tokens)}")
    result.timing.prefills.extend(answer["prefills"])
    result.timing.steps.extend(answer["steps"])
    result.tokens = answer["tokens"]
