"""What a variant computed where it was proven right, so that another machine can compare with no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.hashing import sha256_file
from seap_export.runtime.decoder import Decoder
from seap_export.runtime.files import load_tokenizer, model_limits

__all__ = ["GOLDEN_SCHEMA", "GoldenComparison", "compare_with_golden", "write_golden"]

GOLDEN_SCHEMA = "seap-export/golden/1"
#: Of each distribution the most likely tokens are kept, and logits spread over the vocabulary: 130 numbers a token.
_TOP, _SPREAD = 64, 64
_GRAPH = "model.onnx"
_BATCH = 3


@dataclass(frozen=True)
class GoldenComparison:
    """How far a variant is from a golden.

    Attributes:
        tokens: Distributions compared.
        max_abs: Largest difference of a logit that was kept.
        mean_kl: Mean KL divergence over the most likely tokens and all others together, nats: never more than that
            over the whole vocabulary.
        limit: The figure that is judged, and its largest value that passes.
        provider: Where it ran.
        reasons: Why it fails; empty if it passes.
    """

    tokens: int
    max_abs: float
    mean_kl: float
    limit: tuple[str, float]
    provider: str
    reasons: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        verdict = "FAILED" if self.reasons else "passed"
        figure, value = self.limit
        return (
            f"golden {verdict}: max abs {self.max_abs:.2g}, mean KL {self.mean_kl:.2g} over {self.tokens} tokens "
            f"(limit: {figure} {value:g}) on {self.provider}"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": GOLDEN_SCHEMA, "verdict": "failed" if self.reasons else "passed", **asdict(self)}


def write_golden(
    folder: Path,
    target: Path,
    prompts: Sequence[str],
    steps: int,
    limit: tuple[str, float],
    provider: str = "cpu",
    threads: int | None = None,
) -> None:
    """Runs a variant and keeps what it computes.

    Args:
        folder: Its `onnx` folder.
        target: The .npz file to write.
        prompts: Texts; each is run alone, then the first three together.
        steps: Tokens that follow each, the most likely ones.
        limit: `max_abs` or `mean_kl`, and its largest value that another machine may find.
        provider: Where it runs.
        threads: Of the session; None: all cores.
    """
    tokenizer, decoder = _opened(folder, provider, threads)
    ids = [list(tokenizer.encode(prompt).ids) for prompt in prompts]
    room = decoder.context_length - steps
    cut = [row[:room] for row in ids if row]
    if not cut:
        raise InputError("no prompt has a token; give others with --prompt-file")
    cases = [[row] for row in cut] + ([cut[:_BATCH]] if len(cut) > 1 else [])
    arrays: dict[str, NDArray[Any]] = {}
    forced: list[list[list[int]]] = []
    for number, rows in enumerate(cases):
        own: list[list[int]] = []
        found = [_kept(logits) for logits in _run(decoder, rows, steps, own)]
        forced.append(own)
        arrays |= {f"{name}.{number}": np.stack([part[name] for part in found]) for name in found[0]}
    about = {
        "schema": GOLDEN_SCHEMA,
        "files": {path.name: sha256_file(path) for path in _files(folder)},
        "limit": list(limit),
        "prompts": list(prompts),
        "token_ids": ids,
        "cases": cases,
        "forced": forced,
    }
    arrays["about"] = np.frombuffer(json.dumps(about, ensure_ascii=False).encode("utf-8"), np.uint8)
    with target.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def compare_with_golden(
    path: Path, golden: Path, provider: str = "cpu", threads: int | None = None
) -> GoldenComparison:
    """Runs a variant as the golden was made, and compares.

    Args:
        path: The variant's folder, or its `onnx` folder.
        golden: What `write_golden` wrote.
        provider: Where it runs.
        threads: Of the session; None: all cores.

    Raises:
        UsageError: The golden is none.
        ArtifactError: A file is not the one that the golden was made of, or the tokenizer gives other ids.
        EnvironmentFailure: There is no such provider here.
    """
    folder = path / "onnx" if (path / "onnx").is_dir() else path
    about, arrays = _read(golden)
    for name, digest in about["files"].items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: missing; copy the whole onnx folder")
        if sha256_file(folder / name) != digest:
            raise ArtifactError(f"{folder / name}: not the file that {golden} was made of; copy it again")
    tokenizer, decoder = _opened(folder, provider, threads)
    for prompt, ids in zip(about["prompts"], about["token_ids"], strict=True):
        if list(tokenizer.encode(prompt).ids) != ids:
            raise ArtifactError(f"{folder}: its tokenizer gives other token ids here than where the golden was made")
    divergence, largest, reasons = [], 0.0, []
    for number, rows in enumerate(about["cases"]):
        forced = about["forced"][number]
        for step, logits in enumerate(_run(decoder, rows, len(forced), forced)):
            if not np.isfinite(logits).all():
                reasons.append(f"NaN or infinite logits in case {number}, step {step}")
                continue
            wanted = {name: arrays[f"{name}.{number}"][step] for name in _PARTS}
            difference, kl = _apart(wanted, logits)
            largest = max(largest, difference)
            divergence.append(kl)
    mean = float(np.mean(np.concatenate(divergence))) if divergence else float("inf")
    figure, value = about["limit"]
    found = {"max_abs": largest, "mean_kl": mean}[figure]
    if not found <= value:
        reasons.append(f"{figure} {found:.3g} > {value:g}")
    tokens = sum(map(len, divergence))
    return GoldenComparison(tokens, largest, mean, (figure, float(value)), provider, tuple(reasons))


_PARTS = ("top_ids", "top_logits", "spread_logits", "log_sum")


def _opened(folder: Path, provider: str, threads: int | None) -> tuple[Any, Decoder]:
    _, context_length = model_limits(folder / "genai_config.json")
    return load_tokenizer(folder), Decoder(folder / _GRAPH, context_length, provider, threads)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _run(
    decoder: Decoder, rows: list[list[int]], steps: int, forced: list[list[int]]
) -> Iterator[NDArray[np.float32]]:
    """Logits [rows, vocabulary] after the prompts and each step; tokens are those of `forced`, or are added to it."""
    decoding = decoder.start(rows, steps)
    yield decoding.logits
    for step in range(steps):
        if step == len(forced):
            forced.append(decoding.logits.argmax(axis=1).tolist())
        decoding.step(forced[step])
        yield decoding.logits


def _kept(logits: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What a golden keeps of logits [rows, vocabulary]."""
    top = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
    return {
        "top_ids": top.astype(np.int32),
        "top_logits": np.take_along_axis(logits, top, axis=1),
        "spread_logits": logits[:, _spread(logits.shape[1])],
        "log_sum": _log_sum(logits),
    }


def _spread(vocabulary: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, vocabulary - 1, _SPREAD).astype(np.int64))


def _log_sum(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    largest = logits.max(axis=1).astype(np.float64)
    return largest + np.log(np.exp(logits.astype(np.float64) - largest[:, None]).sum(axis=1))


def _apart(wanted: dict[str, NDArray[Any]], logits: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """The largest difference of a kept logit, and the divergence of each row."""
    top = np.take_along_axis(logits, wanted["top_ids"].astype(np.int64), axis=1)
    spread = logits[:, _spread(logits.shape[1])]
    difference = max(np.abs(top - wanted["top_logits"]).max(), np.abs(spread - wanted["spread_logits"]).max())
    p = np.exp(wanted["top_logits"].astype(np.float64) - wanted["log_sum"][:, None])
    q = np.exp(top.astype(np.float64) - _log_sum(logits)[:, None])
    whole = np.stack([np.append(row, max(1.0 - row.sum(), 1e-12)) for row in p])
    other = np.stack([np.append(row, max(1.0 - row.sum(), 1e-12)) for row in q])
    kl = (whole * (np.log(np.maximum(whole, 1e-300)) - np.log(np.maximum(other, 1e-300)))).sum(axis=1)
    return float(difference), np.maximum(kl, 0.0)


def _read(golden: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        with np.load(os.fspath(golden), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes().decode("utf-8"))
        if about["schema"] != GOLDEN_SCHEMA or about["limit"][0] not in ("max_abs", "mean_kl"):
            raise ValueError(f"its schema is {about['schema']!r:.40}")
        outside = [name for name in about["files"] if Path(name).name != name]
        if outside:
            raise ValueError("it names files elsewhere")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UsageError(f"{golden}: no golden ({' '.join(str(error).split()):.120}); write it again") from error
    return about, arrays
