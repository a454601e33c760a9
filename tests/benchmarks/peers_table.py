"""Compares this package's ONNX with that of GenAI's builder (writing, running, generating), as Markdown tables.

    python tests/benchmarks peers_table MODEL_FOLDER --genai-python GENAI/bin/python --json peers.json

MODEL_FOLDER is a dense model in float32. GENAI needs onnxruntime-genai, onnx-ir, torch and transformers. Exporters:

- genai: the model builder of onnxruntime-genai; int8 and int4 are its `-p int8` and `-p int4`, symmetric, in blocks of
  32, with int8 activations, as ours are; `-last` is its `prune_lm_head`;
- ours: `seap-export convert`; `-last` is `--logits last`, `-standard` is `--dialect standard`.

Each writes once, in a separate process. Then the graphs of a precision are run in turn in one process, with this
environment's onnxruntime, each in a new session each round: a prompt and decode steps, numpy arrays in and out, the
same token ids for all. In fp32, all must predict the same most likely tokens as genai-fp32. Finally, generation loops
run in turn, each in separate processes of its environment. Everything runs on the CPU.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from benchmarks.peers.graphs import Passage, Result, choose_passage, compare, rotated
from benchmarks.written import Artifact

from seap_export.common.checksums import SUMS, write_checksums
from seap_export.errors import ArtifactError
from seap_export.runtime.doctor.machine import processor
from validation.reports.markdown import markdown_table
from validation.speed.measure import Timing

SCHEMA = "seap-export/peers/1"
PRECISIONS = ("fp32", "int8", "int4")
_LOOP = Path(__file__).parent / "peers" / "loop.py"
_WARM_UP, _RUNS_A_PROCESS = 1, 3
#: Prints what an environment has.
_VERSIONS = """
import json, platform
from importlib import metadata
names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-genai", "torch", "transformers", "seap-export")
known = {one.metadata["Name"]: one.version for one in metadata.distributions()}
print(json.dumps({"python": platform.python_version(), **{name: known[name] for name in names if name in known}}))
"""


@dataclass
class _LoopResult:
    """Times of all processes of a loop, and the tokens of the last one."""

    timing: Timing = field(default_factory=Timing)
    tokens: list[int] = field(default_factory=list)


@click.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--genai-python", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=24, show_default=True, help="Decode steps after a prompt.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Runs, and processes per loop.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of each session.")
def peers_table(model: Path, genai_python: Path, json_file: Path | None, **size: int) -> None:
    """Print the tables; MODEL_FOLDER is a dense model."""
    # not resolved: an environment's python is a link, and its location identifies the environment
    pythons = {"main": str(Path(sys.executable).absolute()), "genai": str(genai_python.absolute())}
    threads, rounds = size["threads"], size["rounds"]
    report: dict[str, Any] = {"schema": SCHEMA, "artifacts": {}, "sessions": {}, "loops": {}}
    with TemporaryDirectory() as folder:
        artifacts = {precision: _artifacts(model, Path(folder), pythons, precision) for precision in PRECISIONS}
        rows = []
        for artifact in (artifact for group in artifacts.values() for artifact in group):
            cost, name = artifact.write(model), artifact.name
            size_of = sum(path.stat().st_size for path in artifact.folder.glob("model.onnx*"))
            memory = "not measured" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:.0f} MB"
            rows.append((name, f"{cost.wall_s:.2f} s", memory, f"{size_of / 1e6:.1f} MB"))
            report["artifacts"][name] = {**asdict(cost), "onnx_bytes": size_of}
        _show("Writing", markdown_table(("artifact", "wall", "peak memory", "ONNX on disk"), rows))
        vocabulary = int(json.loads((model / "config.json").read_text("utf-8"))["vocab_size"])
        reference = artifacts["fp32"][0].folder / "model.onnx"
        passage = choose_passage(reference, threads, vocabulary, size["prompt_tokens"], size["steps"])
        for precision, group in artifacts.items():
            graphs = {artifact.name: artifact.folder / "model.onnx" for artifact in group}
            exact = precision == "fp32"
            results = compare(graphs, reference, passage, threads=threads, rounds=rounds, is_exact=exact)
            _show(f"Sessions, {precision}", *_session_tables(results))
            report["sessions"][precision] = {
                name: {"max_abs": result.max_abs, "same_tokens": result.same_tokens, **_figures(result.timing)}
                for name, result in results.items()
            }
        for precision, group in artifacts.items():
            loops = _loops({artifact.name: artifact.folder for artifact in group}, pythons, precision)
            for words in loops.values():
                _prepare(Path(words[-1]), threads, passage.unlikely)
            timed = _run_loops(loops, passage, Path(folder), threads, rounds, is_exact=precision == "fp32")
            _show(f"Generation loops, {precision}", *_loop_tables(timed, passage.tokens))
            report["loops"][precision] = {
                name: {"tokens": result.tokens, **_figures(result.timing)} for name, result in timed.items()
            }
    if json_file:
        versions = {name: json.loads(_said([python, "-I", "-c", _VERSIONS])) for name, python in pythons.items()}
        machine = {"processor": processor(), "system": platform.platform(), "versions": versions}
        report |= {"setting": {"model": str(model), **size, **machine}, "tokens": passage.tokens}
        json_file.write_text(json.dumps(report, indent=1) + "\n", "utf-8", newline="\n")


def _artifacts(model: Path, work: Path, pythons: Mapping[str, str], precision: str) -> list[Artifact]:
    """The builder's, with logits of all positions and of the last, and ours; the first one is the builder's."""
    builder = [pythons["genai"], "-I", "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
    builder += ["-i", str(model.absolute()), "-c", str(work / "cache"), "-o"]
    ours = [pythons["main"], "-c", "from seap_export.cli import main; main()", "convert", "--quiet"]
    ours += [str(model.absolute()), "--precision", precision, "--out"]
    commands = {
        "genai-{}": (builder, ()),
        "genai-{}-last": (builder, ("--extra_options", "prune_lm_head=true")),
        "ours-{}": (ours, ("--logits", "all")),
        "ours-{}-last": (ours, ("--logits", "last")),
        **({"ours-{}-standard": (ours, ("--logits", "all", "--dialect", "standard"))} if precision == "fp32" else {}),
    }
    return [
        Artifact(name, folder := work / name / "onnx", (*command, str(folder), *options))
        for name, (command, options) in ((key.format(precision), value) for key, value in commands.items())
    ]


def _loops(folders: Mapping[str, Path], pythons: Mapping[str, str], precision: str) -> dict[str, list[str]]:
    """Our artifact in our runner, the builder's in GenAI, ours in GenAI: the command of each, the folder last."""
    ours, theirs = f"ours-{precision}-last", f"genai-{precision}"
    runner, genai = [pythons["main"], "-I", str(_LOOP), "runner"], [pythons["genai"], "-I", str(_LOOP), "genai"]
    loops = {f"{name}, GenAI": [*genai, str(folders[name])] for name in (theirs, f"{theirs}-last", ours)}
    return {f"{ours}, runner": [*runner, str(folders[ours])], **loops}


def _prepare(folder: Path, threads: int, end: int) -> None:
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


def _run_loops(
    loops: Mapping[str, list[str]], passage: Passage, scratch: Path, threads: int, rounds: int, *, is_exact: bool
) -> dict[str, _LoopResult]:
    request, results = scratch / "request.json", {name: _LoopResult() for name in loops}
    asked = {"prompt": passage.prompt, "new_tokens": len(passage.tokens), "threads": threads}
    request.write_text(json.dumps({**asked, "warm_up": _WARM_UP, "runs": _RUNS_A_PROCESS}), "utf-8", newline="\n")
    for turn in range(rounds):
        for name in rotated(loops, turn):
            print(f"running {name}", file=sys.stderr)
            answer = json.loads(_said([*loops[name], str(request)]).splitlines()[-1])
            tokens, result = answer["tokens"], results[name]
            if len(tokens) != len(passage.tokens) or (is_exact and tokens != passage.tokens):
                raise ArtifactError(f"{name} gave {tokens}, not {passage.tokens}")
            result.timing.prefills.extend(answer["prefills"])
            result.timing.steps.extend(answer["steps"])
            result.tokens = tokens
    return results


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArtifactError(f"{' '.join(command)} failed: {reason}")
    return done.stdout


def _show(title: str, *tables: str) -> None:
    click.echo("\n\n".join([f"## {title}", *tables]) + "\n")


def _session_tables(results: Mapping[str, Result]) -> tuple[str, str]:
    rows = [
        (name, f"{result.max_abs:.1e}", f"{result.same_tokens:.0%}", *_times(result.timing))
        for name, result in results.items()
    ]
    head = ("artifact", "max abs", "same tokens", "prefill", "p95", "decode step")
    ours = [name for name in results if name.startswith("ours")]
    return markdown_table(head, rows), _ratios({name: result.timing for name, result in results.items()}, ours)


def _loop_tables(results: Mapping[str, _LoopResult], tokens: Sequence[int]) -> tuple[str, str]:
    """Times of generation loops, and how many of their tokens are the fp32 reference's."""
    rows = []
    for name, result in results.items():
        same = sum(one == other for one, other in zip(result.tokens, tokens, strict=True)) / len(tokens)
        rows.append((name, f"{same:.0%}", *_times(result.timing)))
    head = ("artifact, loop", "same tokens", "first token", "p95", "each later token")
    timings = {name: result.timing for name, result in results.items()}
    return markdown_table(head, rows), _ratios(timings, [next(iter(results))])


def _ratios(timings: Mapping[str, Timing], ours: Sequence[str]) -> str:
    """Our time over that of each peer, for prefill / decode step; below 1, ours is faster."""
    rows = [
        [name, *(f"{timings[o].prefill_s / peer.prefill_s:.2f} / {timings[o].step_s / peer.step_s:.2f}" for o in ours)]
        for name, peer in timings.items()
        if name not in ours
    ]
    return markdown_table(("ours / peer: prefill / decode", *ours), rows)


def _times(timing: Timing) -> tuple[str, str, str]:
    first, slowest, step = (seconds * 1e3 for seconds in (timing.prefill_s, timing.prefill_p95_s, timing.step_s))
    return f"{first:.1f} ms", f"{slowest:.1f} ms", f"{step:.2f} ms"


def _figures(timing: Timing) -> dict[str, Any]:
    medians = {"prefill_s": timing.prefill_s, "prefill_p95_s": timing.prefill_p95_s, "step_s": timing.step_s}
    return {**medians, **asdict(timing)}
