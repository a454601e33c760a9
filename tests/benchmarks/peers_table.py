"""Compares this package's ONNX with that of GenAI's builder (writing, running, generating), as Markdown tables.

    python tests/benchmarks peers_table MODEL_FOLDER --genai-python GENAI/bin/python --json peers.json

MODEL_FOLDER is a dense model in float32. GENAI needs onnxruntime-genai, onnx-ir, torch and transformers. Exporters:

- genai: the model builder of onnxruntime-genai; int8 and int4 are its `-p int8` and `-p int4`, symmetric, in blocks of
  32, with int8 activations, as ours are; `-last` is its `prune_lm_head`;
- ours: `seap-export convert`; `-last` is `--logits last`, `-standard` is `--dialect standard`.

Each writes once, in a separate process. Then the graphs of a precision are run in turn in one process, with this
environment's onnxruntime, each in a new session each round: a prompt and decode steps, numpy arrays in and out, the
same token ids for all. In fp32, all must predict the same most likely tokens as genai-fp32. Finally, generation loops
run in turn, each in separate processes of its environment. Everything runs on the CPU. With --work, artifacts are kept
and reused by the next run, which then reports the writing time of the original run; delete a folder to write it again.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from benchmarks.peers.artifacts import Artifact, Environments, Written, all_artifacts, write
from benchmarks.peers.contest import Passage, Result, choose_passage, compare
from benchmarks.peers.loops import LoopResult, all_loops, prepare, run_loops
from benchmarks.peers.setting import versions
from benchmarks.peers.tables import loops_table, ratios_table, sessions_table, writers_table

from seap_export.runtime.doctor.machine import processor
from validation.speed.measure import Timing

SCHEMA = "seap-export/peers/1"
_PYTHON = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class _Size:
    """Amount of work to run."""

    prompt_tokens: int
    steps: int
    rounds: int
    threads: int


@click.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--genai-python", required=True, type=_PYTHON)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=24, show_default=True, help="Decode steps after a prompt.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of runs, and of processes per loop.",
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of each session.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Keep the artifacts in this folder.")
def peers_table(model: Path, genai_python: Path, json_file: Path | None, work: Path | None, **size: int) -> None:
    """Print the tables; MODEL_FOLDER is a dense model."""
    # Not resolved: an environment's python is a link, and its location identifies the environment.
    pythons = (python.absolute() for python in (Path(sys.executable), genai_python))
    environments, sizes = Environments(*pythons), _Size(**size)
    with _folder(work) as folder:
        artifacts = all_artifacts(model.absolute(), folder, environments)
        written = {artifact.name: write(artifact, model) for artifact in artifacts}
        _show("Writing", writers_table(written))
        vocabulary = int(json.loads((model / "config.json").read_text("utf-8"))["vocab_size"])
        reference = artifacts[0].graph
        passage = choose_passage(reference, sizes.threads, vocabulary, sizes.prompt_tokens, sizes.steps)
        sessions = _sessions(artifacts, reference, passage, sizes)
        loops = _loops(artifacts, environments, passage, folder, sizes)
    if json_file:
        setting = _setting(model, environments, sizes)
        text = json.dumps(_report(setting, passage, written, sessions, loops), indent=1)
        json_file.write_text(text + "\n", "utf-8", newline="\n")


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The absolute path of the working folder; a temporary folder if none is given."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _sessions(
    artifacts: Sequence[Artifact], reference: Path, passage: Passage, sizes: _Size
) -> dict[str, dict[str, Result]]:
    """For each precision, the results of its artifacts."""
    results = {}
    for precision in dict.fromkeys(artifact.precision for artifact in artifacts):
        of_precision = [artifact for artifact in artifacts if artifact.precision == precision]
        results[precision] = compare(
            {artifact.name: artifact.graph for artifact in of_precision},
            reference,
            passage,
            threads=sizes.threads,
            rounds=sizes.rounds,
            is_exact=precision == "fp32",
        )
        timings = {name: result.timing for name, result in results[precision].items()}
        ours = [artifact.name for artifact in of_precision if artifact.is_ours]
        _show(f"Sessions, {precision}", sessions_table(results[precision]), ratios_table(timings, ours))
    return results


def _loops(
    artifacts: Sequence[Artifact], environments: Environments, passage: Passage, scratch: Path, sizes: _Size
) -> dict[str, dict[str, LoopResult]]:
    """For each precision, the results of its generation loops."""
    loops = all_loops({artifact.name: artifact.folder for artifact in artifacts}, environments)
    for folder in {loop.folder for loop in loops}:
        prepare(folder, sizes.threads, passage.unlikely)
    results = {}
    for precision in dict.fromkeys(loop.precision for loop in loops):
        of_precision = [loop for loop in loops if loop.precision == precision]
        results[precision] = run_loops(of_precision, passage, scratch, threads=sizes.threads, rounds=sizes.rounds)
        timings = {name: result.timing for name, result in results[precision].items()}
        table = loops_table(results[precision], passage.tokens)
        _show(f"Generation loops, {precision}", table, ratios_table(timings, [of_precision[0].name]))
    return results


def _show(title: str, *tables: str) -> None:
    click.echo("\n\n".join([f"## {title}", *tables]) + "\n")


def _setting(model: Path, environments: Environments, sizes: _Size) -> dict[str, Any]:
    return {
        "model": str(model),
        **asdict(sizes),
        "processor": processor(),
        "system": platform.platform(),
        "versions": versions(environments),
    }


def _report(
    setting: Mapping[str, Any],
    passage: Passage,
    written: Mapping[str, Written],
    sessions: Mapping[str, Mapping[str, Result]],
    loops: Mapping[str, Mapping[str, LoopResult]],
) -> dict[str, Any]:
    """Everything as plain values; times in seconds."""
    return {
        "schema": SCHEMA,
        "setting": dict(setting),
        "tokens": list(passage.tokens),
        "artifacts": {name: asdict(cost) for name, cost in written.items()},
        "sessions": {
            precision: {
                name: {**asdict(result.agreement), **_times(result.timing)} for name, result in results.items()
            }
            for precision, results in sessions.items()
        },
        "loops": {
            precision: {name: {"tokens": result.tokens, **_times(result.timing)} for name, result in results.items()}
            for precision, results in loops.items()
        },
    }


def _times(timing: Timing) -> dict[str, Any]:
    medians = {"prefill_s": timing.prefill_s, "prefill_p95_s": timing.prefill_p95_s, "step_s": timing.step_s}
    return {**medians, **asdict(timing)}
