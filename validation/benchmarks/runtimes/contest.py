"""One model, dense and pruned, in every runtime: size, time and divergence.

Folders are written once. Divergence is that of the folder as it is served, from the dense model in torch. Times are
taken in rounds: in each one every folder is opened anew, warmed up, and runs the same prompt alone.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.formats import format_class
from converters.gguf.file import MODEL_FILE
from seap_export.errors import InputError, ParityFailure
from seap_export.families import model_spec
from seap_export.json_file import read_json
from validation.benchmarks.runtimes.kept import Kept
from validation.benchmarks.runtimes.llama_quantizer import quantize
from validation.divergence.measure import DenseReference
from validation.execution import Execution
from validation.metrics import LogitComparison
from validation.runtimes.runner import Runner
from validation.runtimes.table import REFERENCE, open_runtime, require_runtime
from validation.speed.engines import pace_of

__all__ = ["Entry", "Figures", "divergence", "entries", "figures", "time_round", "write_entry"]

TokenIds = Sequence[int]
#: The name of what llama.cpp itself makes of the dense model.
THEIRS = "llama.cpp's own"
_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Entry:
    """A folder in a runtime.

    Attributes:
        model: "dense" or "pruned".
        model_folder: config.json, safetensors files and tokenizer.
        format: In `converters.formats.FORMATS`.
        precision: One of the format's.
        runtime: One of the format's.
        maker: Who wrote it: "" this package, or `THEIRS`.
    """

    model: str
    model_folder: Path
    format: str
    precision: str
    runtime: str
    maker: str = ""

    @property
    def name(self) -> str:
        """In texts and in files."""
        return " ".join(filter(None, (self.model, self.runtime, f"{self.format}:{self.precision}", self.maker)))


@dataclass(frozen=True)
class Figures:
    """What was measured of an entry; None: not yet.

    Attributes:
        size: Bytes of all files of the folder.
        mean_kl: Mean divergence from the dense model, nats per token.
        first_s: Median seconds until the first token.
        tokens_per_s: 1 over the median seconds of a token after it.
        rounds: In how many rounds.
        reason: Why there are none; "": there are.
    """

    size: int | None = None
    mean_kl: float | None = None
    first_s: float | None = None
    tokens_per_s: float | None = None
    rounds: int = 0
    reason: str = ""


def entries(models: Mapping[str, Path], formats: Sequence[tuple[str, str]], only: Sequence[str]) -> list[Entry]:
    """Every model in every format and runtime, and llama.cpp's own Q4_0 of the dense one beside ours.

    Args:
        models: The model folders, by "dense" and "pruned".
        formats: Names and precisions.
        only: The runtimes; empty: all.
    """
    listed = []
    for name, precision in formats:
        for runtime in format_class(name).runtimes:
            if runtime == REFERENCE or (only and runtime not in only):
                continue
            listed += [Entry(model, folder, name, precision, runtime) for model, folder in models.items()]
            if (name, precision) == ("gguf", "q4_0"):
                listed.append(Entry("dense", models["dense"], name, precision, runtime, THEIRS))
    return listed


def write_entry(entry: Entry, folder: Path, threads: int) -> Path:
    """The folder of an entry, which is written unless it is there.

    Raises:
        InputError: The format does not take the model.
        EnvironmentFailure: A package is missing.
    """
    require_runtime(entry.runtime)
    if entry.format == "hf":
        return entry.model_folder
    target = folder / "--".join(filter(None, (entry.model, entry.format, entry.precision, entry.maker and "own")))
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            unfinished = Path(scratch) / target.name
            unfinished.mkdir()
            if entry.maker:
                _quantize(entry, unfinished, Path(scratch), threads)
            else:
                _write(entry.format, entry.precision, entry.model_folder, unfinished)
            unfinished.rename(target)
    return target


def _write(name: str, precision: str, model_folder: Path, out_folder: Path) -> None:
    format, config = format_class(name)(precision), read_json(model_folder / "config.json")
    reason = format.refusal(model_spec(config), config)
    if reason is not None:
        raise InputError(reason)
    format.write(model_folder, out_folder, lambda layer: None)


def _quantize(entry: Entry, target: Path, scratch: Path, threads: int) -> None:
    """From our file in f32."""
    exact = scratch / "exact"
    exact.mkdir()
    _write(entry.format, "f32", entry.model_folder, exact)
    quantize(exact / MODEL_FILE, target / MODEL_FILE, entry.precision, threads)


def divergence(runner: Runner, reference: DenseReference) -> float:
    """Mean KL(dense || served) over all tokens of the reference's texts, nats.

    Raises:
        ParityFailure: Logits are NaN, infinite or of the wrong shape.
    """
    comparison = LogitComparison()
    for index, ids in enumerate(reference.token_ids):
        logits = runner.prefill(np.asarray([ids], np.int64), [len(ids)])[0]
        comparison.update(reference.logits(index), logits, row=index)
    measured = comparison.figures()
    if measured.defects or measured.mean_kl is None:
        raise ParityFailure("NaN, infinite or missing logits")
    return measured.mean_kl


def time_round(
    folders: Sequence[tuple[Entry, Path]],
    number: int,
    prompt: TokenIds,
    steps: int,
    threads: int,
    kept: Kept,
    say: Callable[[str], object],
) -> None:
    """Times every entry once, one after the other, as far as it has not been done."""
    for entry, folder in folders:
        if kept.get(entry.name, "round", number) is not None:
            continue
        with closing(open_runtime(entry.runtime, folder, Execution(threads=threads), "served")) as runner:
            pace_of(runner, [prompt], _WARM_UP_STEPS)
            pace = pace_of(runner, [prompt], steps)
        kept.put({"first_s": pace.first_s, "steps_s": list(pace.steps_s)}, entry.name, "round", number)
        say(f"round {number + 1}: {entry.name}")


def figures(entry: Entry, kept: Kept) -> Figures:
    """What is kept of an entry."""
    known = kept.get(entry.name) or {}
    rounds: list[dict[str, Any]] = []
    while (timed := kept.get(entry.name, "round", len(rounds))) is not None:
        rounds.append(timed)
    if not rounds:
        return Figures(**known)
    first = statistics.median(timed["first_s"] for timed in rounds)
    step = statistics.median(statistics.median(timed["steps_s"]) for timed in rounds)
    return Figures(**known, first_s=first, tokens_per_s=1.0 / step, rounds=len(rounds))
