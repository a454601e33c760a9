"""Quality against size of files of several tools, on the same held-out texts and in one run, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --calibration-tokens 65536 --held-out 128 --out DIR
    python tests/benchmarks frontier_table DENSE --calibration DIR/calibration/gsm8k --source MODEL.gguf \
        --ours mixed-3.5=OUT/gsm8k-0.3/onnx-mixed-3.5 --python llama.cpp=LLAMA/bin/python \
        --python nncf=NNCF/bin/python --python genai=GENAI/bin/python \
        --python auto-round=AUTOROUND/bin/python --work PEERS --json rows.json --plot rows.svg

DENSE is the dense model as a folder of transformers, in float32. Rows:

- ours: folders of this package, each by its runtime;
- source: the GGUF file that the dense model was read from;
- llama.cpp: `llama_model_quantize` on the dense model in F32, with an importance matrix of the calibration texts;
- NNCF: `compress_weights`, INT4_ASYM with AWQ and scale estimation on the calibration texts, on OpenVINO's file;
- GenAI builder: `-p int4`, which reads no texts, by default and with two of its better algorithms;
- AutoRound: 50 iterations of rounding on the calibration texts in groups of 32. Its levels run in torch, unpacked, so
  that they have no times; its bytes are those of its own file.

Divergence is that from the dense model in float32, in torch, over all tokens of the texts; each runtime computes as
exactly as it can. Speed is that with the runtime's own defaults, in turn. Something that is missing is named below the
table, with the command that installs it. With --work, files of others are kept, and made only once.
"""

from __future__ import annotations

import contextlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from benchmarks.frontier.makers import INSTALL, Kitchen, Peer
from benchmarks.frontier.measuring import (
    ANSWER,
    PROMPT,
    REQUEST,
    Quality,
    Speed,
    measure_quality,
    measure_speeds,
    runtime_of,
    weight_bytes,
)

from seap_export.errors import SeapError, UsageError
from seap_export.model.sources.config import read_spec
from seap_export.pruning.activations.statistics import TOKENS, Calibration, read_tokens
from seap_export.runtime.doctor.machine import processor
from validation.divergence.dense import DenseAnswers
from validation.execution import Execution
from validation.prompts import tokenize_prompts
from validation.reports.markdown import markdown_table
from validation.reports.numbers import NOTHING, figure, percent, with_error
from validation.runtimes.table import REFERENCE, runtime_versions

SCHEMA = "seap-export/frontier/1"
_OURS = "seap-export"


@dataclass(frozen=True)
class Row:
    """A file and what was measured of it.

    Attributes:
        name: Its name.
        tool: The tool that wrote it.
        runtime: The runtime that ran it.
        bytes: Bytes of its weight files.
        quality: How far its predictions are from the dense model's.
        speed: Its times; None: not measured.
    """

    name: str
    tool: str
    runtime: str
    bytes: int
    quality: Quality
    speed: Speed | None = None

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        quality, speed = self.quality, self.speed
        known = (
            self.name,
            f"{self.bytes / 1e6:.1f}",
            with_error(quality.kl, quality.kl_stderr),
            percent(quality.top1),
        )
        if speed is None:
            return (*known, NOTHING, NOTHING, NOTHING)
        return (*known, figure(1 / speed.step_s), f"{speed.prompt_s:.2f}", f"{speed.request_s:.2f}")


@click.command()
@click.argument("dense", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--calibration", "folder", required=True, type=click.Path(path_type=Path), help="Statistics of the task."
)
@click.option("--ours", multiple=True, metavar="NAME=FOLDER", help="A folder of a format that this package wrote.")
@click.option("--source", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The model's GGUF file.")
@click.option("--python", "pythons", multiple=True, metavar="TOOL=PYTHON", help=f"Has one of: {', '.join(INSTALL)}.")
@click.option("--number", type=click.IntRange(2), default=128, show_default=True, help="Texts that are evaluated.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of an evaluated text.")
@click.option("--no-speed", is_flag=True, help="Leave the times out.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Timed runs of each file.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), help="Keep what others' tools write here.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw KL against size: an .svg or .png file.")
def frontier_table(
    dense: Path,
    folder: Path,
    ours: tuple[str, ...],
    source: Path | None,
    pythons: tuple[str, ...],
    number: int,
    max_length: int,
    no_speed: bool,
    runs: int,
    threads: int,
    work: Path | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Print the table, the smallest file first; DENSE is a folder of transformers."""
    calibration = Calibration(folder)
    environments = {name: path.absolute() for name, path in _named(pythons, "--python").items()}
    if strange := environments.keys() - INSTALL.keys():
        raise UsageError(f"--python: unknown tool '{min(strange)}'; use {', '.join(INSTALL)}")
    own = [Peer(name, _OURS, runtime_of(path), made=path) for name, path in _named(ours, "--ours").items()]
    vocab_size = read_spec(dense).vocab_size
    with _folder(work) as scratch, DenseAnswers(dense, Execution(threads=threads)) as answers:
        kitchen = Kitchen(dense.absolute(), read_tokens(folder / TOKENS), scratch, environments)
        peers = [*own, *([kitchen.source(source)] if source else []), *kitchen.peers()]
        skipped = _made(peers, kitchen)
        held_out = [sample["prompt"] + sample["completion"] for sample in calibration.record.held_out[:number]]
        texts = tokenize_prompts(dense, held_out, max_tokens=max_length, vocab_size=vocab_size)
        answers.run(texts)
        reference = answers.reference(texts)
        rows = []
        for peer in peers:
            if peer.name in skipped:
                continue
            with _skipping(skipped, peer.name):
                quality = measure_quality(reference, peer.folder, peer.runtime, threads)
                rows.append(Row(peer.name, peer.tool, peer.runtime, weight_bytes(peer.folder), quality))
                click.echo(" | ".join(rows[-1].cells()), err=True)
        if not no_speed:
            rows = _timed(rows, peers, vocab_size, threads, runs)
    rows.sort(key=lambda row: row.bytes)
    click.echo(_table(rows, with_times=not no_speed))
    for reason in dict.fromkeys(skipped.values()):
        click.echo(f"\nskipped: {'; '.join(name for name in skipped if skipped[name] == reason)}: {reason}")
    if json_file:
        setting = {
            "dense": str(dense), "task": calibration.record.task, "texts": len(texts),
            "tokens": sum(map(len, texts)), "threads": threads, "runs": None if no_speed else runs,
            "processor": processor(), "system": platform.platform(),
            "versions": {row.runtime: runtime_versions(row.runtime) for row in rows if row.runtime != REFERENCE},
        }  # fmt: skip
        report = {"schema": SCHEMA, "setting": setting, "rows": [asdict(row) for row in rows], "skipped": skipped}
        json_file.write_text(json.dumps(report, indent=1) + "\n", "utf-8", newline="\n")
    if plot:
        _draw(rows, len(texts), calibration.record.task, plot)


def _named(values: Sequence[str], option: str) -> dict[str, Path]:
    """NAME=PATH by name."""
    pairs = [value.partition("=") for value in values]
    if not all(name and path for name, _, path in pairs):
        raise UsageError(f"{option} takes NAME=PATH")
    return {name: Path(path) for name, _, path in pairs}


@contextlib.contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The absolute path of the working folder; a temporary folder if none is given."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def _skipping(skipped: dict[str, str], name: str) -> Iterator[None]:
    """Turns an error into a row that is skipped."""
    try:
        yield
    except (SeapError, RuntimeError) as error:
        skipped[name] = str(error)
        click.echo(f"skipped: {name}: {error}", err=True)


def _made(peers: Sequence[Peer], kitchen: Kitchen) -> dict[str, str]:
    """Makes the peers, and says by name why one could not be made."""
    skipped: dict[str, str] = {}
    for peer in peers:
        lack = peer.lack(kitchen.pythons)
        if lack is not None:
            skipped[peer.name] = lack
            continue
        with _skipping(skipped, peer.name):
            peer.make(kitchen.model)
    return skipped


def _timed(rows: Sequence[Row], peers: Sequence[Peer], vocab_size: int, threads: int, runs: int) -> list[Row]:
    timed = {row.name for row in rows if row.runtime != REFERENCE}
    files = {peer.name: (peer.folder, peer.runtime) for peer in peers if peer.name in timed}
    say: Callable[[str], object] = lambda line: click.echo(line, err=True)  # noqa: E731
    speeds = measure_speeds(files, vocab_size, threads=threads, runs=runs, say=say)
    return [replace(row, speed=speeds.get(row.name)) for row in rows]


def _table(rows: Sequence[Row], *, with_times: bool) -> str:
    head = ("file", "MB", "KL", "top-1", "tokens/s", f"prompt of {PROMPT}, s", f"{REQUEST:,} + {ANSWER} tokens, s")
    columns = len(head) if with_times else len(head) - 3
    return markdown_table(head[:columns], (row.cells()[:columns] for row in rows))


def _draw(rows: Sequence[Row], texts: int, task: str, path: Path) -> None:
    from benchmarks.frontier.picture import frontier_figure

    from seap_export.pipeline.plots.style import house_style, save

    tools: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: row.tool != _OURS):
        tools.setdefault(row.tool, []).append((row.bytes / 1e6, row.quality.kl, row.quality.kl_stderr))
    with house_style():
        save(frontier_figure(tools, texts, f"Divergence against size, {task}"), path)
