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
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.peers.graphs import PlainGraph
from benchmarks.written import Artifact
from seap_export.common.checksums import SUMS, write_checksums
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import ArtifactError
from seap_export.model.sources.config import read_spec
from validation.reports.markdown import markdown_table
from validation.speed.measure import Timing

PRECISIONS = ("fp32", "int8", "int4")
PROMPT, STEPS, THREADS = 512, 24, 2
#: Runs of a generation loop's process before those that count, and of those.
_WARM_UP, _RUNS = 1, 3
#: Waiting threads spin for some milliseconds.
_PAUSE_SECONDS = 0.05
_LOOP = Path(__file__).parent / "peers" / "loop.py"
Timings = dict[str, Timing]


@click.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--genai-python", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all times to this file.")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Runs, and processes per loop.")
def peers_table(model: Path, genai_python: Path, json_file: Path | None, rounds: int) -> None:
    """Print the tables; MODEL_FOLDER is a dense model."""
    # not resolved: an environment's python is a link, and its location identifies the environment
    pythons = {"main": str(Path(sys.executable).absolute()), "genai": str(genai_python.absolute())}
    figures: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        artifacts = {precision: _artifacts(model, Path(folder), pythons, precision) for precision in PRECISIONS}
        rows: list[tuple[str, ...]] = []
        for artifact in (artifact for group in artifacts.values() for artifact in group):
            cost, name = artifact.write(), artifact.name
            size = sum(path.stat().st_size for path in artifact.folder.glob("model.onnx*"))
            rows.append((name, f"{cost.wall_s:.2f} s", f"{cost.peak_bytes / 1e6:.0f} MB", f"{size / 1e6:.1f} MB"))
            figures[name] = {**cost._asdict(), "onnx_bytes": size}
        _show("Writing", ("artifact", "wall", "peak memory", "ONNX on disk"), rows)
        reference = PlainGraph(artifacts["fp32"][0].folder / "model.onnx", THREADS)
        prompt = np.random.default_rng(0).integers(0, read_spec(model).vocab_size, PROMPT).tolist()
        logits = np.stack(list(_predicted(reference, prompt)))
        # What the reference finds most likely after the prompt and each token, and what it finds unlikely everywhere.
        tokens, unlikely = logits.argmax(1).tolist(), int(logits.max(0).argmin())
        for precision, group in artifacts.items():
            is_exact, files = precision == "fp32", {one.name: one.folder / "model.onnx" for one in group}
            rows = [(name, *_compared(name, path, prompt, tokens, logits, is_exact)) for name, path in files.items()]
            timings = _timed_sessions(files, prompt, tokens[:-1], rounds)
            head = ("artifact", "max abs", "same tokens", "prefill", "p95", "decode step")
            _show(f"Sessions, {precision}", head, [(*row, *_times(timings[row[0]])) for row in rows])
            _show_ratios(timings, [name for name in files if name.startswith("ours")])
            figures |= {f"{name}, session": asdict(timing) for name, timing in timings.items()}
        for precision, group in artifacts.items():
            loops = _loops({artifact.name: artifact.folder for artifact in group}, pythons, precision)
            for words in loops.values():
                _prepare(Path(words[-1]), unlikely)
            asked = {"prompt": prompt, "new_tokens": len(tokens), "threads": THREADS}
            request = Path(folder, "request.json")
            write_json(request, {**asked, "warm_up": _WARM_UP, "runs": _RUNS})
            timings, same = _timed_loops(loops, request, tokens, rounds, precision == "fp32")
            rows = [(name, f"{same[name]:.0%}", *_times(timing)) for name, timing in timings.items()]
            loop_head = ("artifact, loop", "same tokens", "first token", "p95", "each later token")
            _show(f"Generation loops, {precision}", loop_head, rows)
            _show_ratios(timings, [next(iter(timings))])
            figures |= {name: asdict(timing) for name, timing in timings.items()}
    if json_file:
        write_json(json_file, figures, indent=1)


def _artifacts(model: Path, work: Path, pythons: Mapping[str, str], precision: str) -> list[Artifact]:
    """The builder's, with logits of all positions and of the last, and ours; the first one is the builder's."""
    builder = [pythons["genai"], "-I", "-m", "onnxruntime_genai.models.builder", "-p", precision, "-e", "cpu"]
    builder += ["-i", str(model.absolute()), "-c", str(work / "cache"), "-o"]
    ours = [pythons["main"], "-c", "from seap_export.cli import main; main()", "convert", "--quiet"]
    ours += [str(model.absolute()), "--precision", precision, "--out"]
    commands = {
        f"genai-{precision}": (builder, ()),
        f"genai-{precision}-last": (builder, ("--extra_options", "prune_lm_head=true")),
        f"ours-{precision}": (ours, ("--logits", "all")),
        f"ours-{precision}-last": (ours, ("--logits", "last")),
    }
    if precision == "fp32":
        commands["ours-fp32-standard"] = ours, ("--logits", "all", "--dialect", "standard")
    return [
        Artifact(name, folder := work / name / "onnx", (*command, str(folder), *options))
        for name, (command, options) in commands.items()
    ]


def _predicted(graph: PlainGraph, prompt: Sequence[int]) -> Iterator[np.ndarray]:
    """The logits after a prompt of random tokens, and after each token that the graph predicts."""
    logits = graph.prefill(prompt)
    yield logits
    for _ in range(STEPS):
        logits = graph.step(int(logits.argmax()))
        yield logits


def _compared(
    name: str, path: Path, prompt: Sequence[int], tokens: Sequence[int], expected: np.ndarray, is_exact: bool
) -> tuple[str, str]:
    """The largest difference of a logit, and the share of tokens that are the same.

    Raises:
        ArtifactError: It must be exact, and finds another token most likely, or its logits are not finite.
    """
    graph = PlainGraph(path, THREADS)
    logits = np.stack([graph.prefill(prompt), *map(graph.step, tokens[:-1])])
    same, most = float((logits.argmax(1) == tokens).mean()), float(np.abs(logits - expected).max())
    if is_exact and (same < 1 or not np.isfinite(most)):
        raise ArtifactError(f"{name}: {same:.0%} of its tokens are the reference's, a logit differs by {most:.1e}")
    return f"{most:.1e}", f"{same:.0%}"


def _timed_sessions(files: Mapping[str, Path], prompt: Sequence[int], tokens: Sequence[int], rounds: int) -> Timings:
    """Opens each graph once a round, alone, and runs the prompt and the tokens twice, of which the second run counts.

    The location of a session's memory makes it faster or slower by up to a tenth for as long as it is open.
    """
    timings = {name: Timing() for name in files}
    for turn in range(rounds):
        for name in _rotated(list(files), turn):
            graph = PlainGraph(files[name], THREADS)
            for timing in (Timing(), timings[name]):
                time.sleep(_PAUSE_SECONDS)
                start = time.perf_counter()
                graph.prefill(prompt)
                timing.prefills.append(time.perf_counter() - start)
                for token in tokens:
                    start = time.perf_counter()
                    graph.step(token)
                    timing.steps.append(time.perf_counter() - start)
            del graph
    return timings


def _rotated(names: list[str], turn: int) -> list[str]:
    start = turn % len(names)
    return names[start:] + names[:start]


def _loops(folders: Mapping[str, Path], pythons: Mapping[str, str], precision: str) -> dict[str, list[str]]:
    """Our artifact in our runner, the builder's in GenAI, ours in GenAI: the command of each, the folder last."""
    ours, theirs = f"ours-{precision}-last", f"genai-{precision}"
    runner, genai = [pythons["main"], "-I", str(_LOOP), "runner"], [pythons["genai"], "-I", str(_LOOP), "genai"]
    loops = {f"{name}, GenAI": [*genai, str(folders[name])] for name in (theirs, f"{theirs}-last", ours)}
    return {f"{ours}, runner": [*runner, str(folders[ours])], **loops}


def _prepare(folder: Path, end: int) -> None:
    """Edits an artifact's genai_config.json: sets the threads, and makes `end` the only end-of-text token.

    A text that ended early would have fewer tokens to time, and GenAI needs an existing token.
    """
    config = read_json(folder / "genai_config.json")
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = THREADS
    config["model"]["eos_token_id"] = end
    write_json(folder / "genai_config.json", config, indent=2)
    if (folder / SUMS).exists():
        write_checksums(folder)


def _timed_loops(
    loops: Mapping[str, list[str]], request: Path, tokens: Sequence[int], rounds: int, is_exact: bool
) -> tuple[Timings, dict[str, float]]:
    """The times of all processes of each loop, and the share of its tokens that are the reference's."""
    timings, same = {name: Timing() for name in loops}, {}
    for turn in range(rounds):
        for name in _rotated(list(loops), turn):
            click.echo(f"running {name}", err=True)
            done = subprocess.run([*loops[name], str(request)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise ArtifactError(f"{' '.join(loops[name])} failed: {done.stderr.strip()[-500:]}")
            answer = json.loads(done.stdout.splitlines()[-1])
            if len(answer["tokens"]) != len(tokens) or (is_exact and answer["tokens"] != tokens):
                raise ArtifactError(f"{name} gave {answer['tokens']}, not {tokens}")
            timings[name].prefills.extend(answer["prefills"])
            timings[name].steps.extend(answer["steps"])
            same[name] = float(np.mean(np.array(answer["tokens"]) == tokens))
    return timings, same


def _show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo(f"## {title}\n\n{markdown_table(head, rows)}\n")


def _show_ratios(timings: Timings, ours: Sequence[str]) -> None:
    """Our time over that of each peer, for prefill / decode step; below 1, ours is faster."""
    rows = [
        [name, *(f"{timings[o].prefill_s / peer.prefill_s:.2f} / {timings[o].step_s / peer.step_s:.2f}" for o in ours)]
        for name, peer in timings.items()
        if name not in ours
    ]
    click.echo(markdown_table(("ours / peer: prefill / decode", *ours), rows) + "\n")


def _times(timing: Timing) -> tuple[str, str, str]:
    first, slowest, step = (seconds * 1e3 for seconds in (timing.prefill_s, timing.prefill_p95_s, timing.step_s))
    return f"{first:.1f} ms", f"{slowest:.1f} ms", f"{step:.2f} ms"
