"""Quality against size of files of several tools, on the same held-out texts and in one run, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --calibration-tokens 65536 --held-out 128 --out DIR
    python tests/benchmarks frontier_table DENSE --calibration DIR/calibration/gsm8k --source MODEL.gguf \
        --ours mixed-3.5=OUT/gsm8k-0.3/onnx-mixed-3.5 --python llama.cpp=LLAMA/bin/python \
        --python nncf=NNCF/bin/python --python genai=GENAI/bin/python

DENSE is the dense model as a folder of transformers, in float32. Rows:

- ours: folders of this package, each by its runtime;
- source: the GGUF file that the dense model was read from;
- llama.cpp: `llama_model_quantize` on the dense model in F32, with an importance matrix of the calibration texts;
- NNCF: `compress_weights`, INT4_ASYM with AWQ and scale estimation on the calibration texts, on OpenVINO's file;
- GenAI builder: `-p int4`, which reads no texts, by default and with two of its better algorithms.

Divergence is that from the dense model in float32, in torch, over all tokens of the texts; each runtime computes as
exactly as it can. Speed is that with the runtime's own defaults, in turn. Something that is missing is named below the
table, with the command that installs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.frontier.makers import INSTALL, Kitchen, Peer
from benchmarks.shrinker import dense_reference, held_out_texts
from converters.formats import FORMATS, WRITTEN, format_class
from seap_export.errors import InputError, SeapError, UsageError
from seap_export.model.sources.config import read_spec
from seap_export.pruning.activations.statistics import TOKENS, Calibration, read_tokens
from validation.divergence.measure import measure_divergence
from validation.execution import Execution
from validation.reports.markdown import markdown_table
from validation.reports.numbers import NOTHING, figure, percent, with_error
from validation.runtimes.table import REFERENCE
from validation.speed.engines import open_engine
from validation.speed.measure import SpeedCell, Timing, measure_speed

#: Files that hold weights, or the graph around them.
_WEIGHTS = (
    "*.onnx", "*.onnx*data", "*.onnx_data*", "*.gguf", "openvino_model.*", "*.safetensors", "*.pte", "*.litertlm",
)  # fmt: skip
#: Tokens of the prompt that is timed alone, and of that of a request, which an answer follows.
PROMPT, REQUEST, ANSWER = 512, 1000, 100

Words = tuple[str, ...]


@click.command()
@click.argument("dense", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--calibration", "folder", required=True, type=click.Path(path_type=Path), help="Of the task.")
@click.option("--ours", multiple=True, metavar="NAME=FOLDER", help="A folder of a format that this package wrote.")
@click.option("--source", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The model's GGUF file.")
@click.option("--python", "pythons", multiple=True, metavar="TOOL=PYTHON", help=f"Has one of: {', '.join(INSTALL)}.")
@click.option("--number", type=click.IntRange(2), default=128, show_default=True, help="Texts that are evaluated.")
@click.option("--no-speed", is_flag=True, help="Leave the times out.")
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Timed runs of each file.")
def frontier_table(
    dense: Path, folder: Path, ours: Words, source: Path | None, pythons: Words, number: int, no_speed: bool, runs: int
) -> None:
    """Print the table, the smallest file first; DENSE is a folder of transformers."""
    environments = {name: path.absolute() for name, path in _named(pythons, "--python").items()}
    if strange := environments.keys() - INSTALL.keys():
        raise UsageError(f"--python: unknown tool '{min(strange)}'; use {', '.join(INSTALL)}")
    own = [Peer(name, runtime_of(path), path) for name, path in _named(ours, "--ours").items()]
    vocab_size, execution = read_spec(dense).vocab_size, Execution(threads=2)
    skipped: dict[str, str] = {}
    rows: dict[str, tuple[int, tuple[str, ...]]] = {}
    with TemporaryDirectory() as scratch:
        kitchen = Kitchen(dense.absolute(), read_tokens(folder / TOKENS), Path(scratch), environments)
        peers = [*own, *([kitchen.source(source)] if source else []), *kitchen.peers()]
        for peer in peers:
            with _skipping(skipped, peer.name):
                peer.make(environments)
        with dense_reference(dense, held_out_texts(Calibration(folder), number), execution) as reference:
            for peer in (peer for peer in peers if peer.name not in skipped):
                with _skipping(skipped, peer.name):
                    found = measure_divergence(reference, peer.folder, peer.runtime, execution=execution)
                    size, kl = weight_bytes(peer.folder), with_error(found.kl.mean, found.kl.stderr)
                    rows[peer.name] = size, (peer.name, f"{size / 1e6:.1f}", kl, percent(found.top1_agreement))
                    click.echo(" | ".join(rows[peer.name][1]), err=True)
        head = ["file", "MB", "KL", "top-1"]
        if not no_speed:
            files = {peer.name: peer for peer in peers if peer.name in rows and peer.runtime != REFERENCE}
            times = measure_times(files, vocab_size, execution, runs)
            head += ["tokens/s", f"prompt of {PROMPT}, s", f"{REQUEST:,} + {ANSWER} tokens, s"]
            rows = {name: (size, (*row, *times.get(name, [NOTHING] * 3))) for name, (size, row) in rows.items()}
    click.echo(markdown_table(head, (row for _, row in sorted(rows.values(), key=lambda row: row[0]))))
    for reason in dict.fromkeys(skipped.values()):
        click.echo(f"\nskipped: {'; '.join(name for name in skipped if skipped[name] == reason)}: {reason}")


def _named(values: Sequence[str], option: str) -> dict[str, Path]:
    pairs = [value.partition("=") for value in values]
    if not all(name and path for name, _, path in pairs):
        raise UsageError(f"{option} takes NAME=PATH")
    return {name: Path(path) for name, _, path in pairs}


@contextmanager
def _skipping(skipped: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except (SeapError, RuntimeError) as error:
        skipped[name] = str(error)
        click.echo(f"skipped: {name}: {error}", err=True)


def runtime_of(folder: Path) -> str:
    for name in (*WRITTEN, *FORMATS):  # config.json, by which hf is known, may be in other folders, too
        if (folder / FORMATS[name].marker).exists():
            return format_class(name).runtimes[0]
    raise InputError(f"{folder}: there is no model; give a folder such as OUT/VARIANT/onnx")


def weight_bytes(folder: Path) -> int:
    """The bytes of the files that hold weights or the graph around them."""
    return sum(path.stat().st_size for path in {path for kind in _WEIGHTS for path in folder.rglob(kind)})


def measure_times(
    files: Mapping[str, Peer], vocab_size: int, execution: Execution, runs: int
) -> dict[str, tuple[str, ...]]:
    """The cells of the times of files in turn, each as its runtime serves it, opened again in each run.

    They are medians over all runs; files that take no text so long have none.
    """
    alone, asked, most = SpeedCell(1, PROMPT), SpeedCell(1, REQUEST), REQUEST + ANSWER
    opened = {name: partial(open_engine, file.runtime, file.folder, most, execution) for name, file in files.items()}
    say = partial(click.echo, err=True)
    timings = measure_speed(opened, (alone, asked), vocab_size=vocab_size, runs=runs, steps=ANSWER, on_progress=say)
    return {
        name: (figure(1 / of[alone].step_s), f"{of[alone].prefill_s:.2f}", f"{_request_s(of[asked]):.2f}")
        for name, of in timings.items()
        if alone in of and asked in of
    }


def _request_s(timing: Timing) -> float:
    """The median over the runs of the seconds of a prompt and all steps after it."""
    return float(np.median(timing.prefills + np.reshape(timing.steps, (len(timing.prefills), -1)).sum(1)))
