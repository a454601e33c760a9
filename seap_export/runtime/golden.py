"""Records what a validated variant computes, so that another machine can compare its results without torch."""

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

from seap_export.common.checksums import refuse_changed
from seap_export.common.hashing import sha256_file
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.files import GRAPH, decoder_options, encode, load_tokenizer, model_limits

GOLDEN_SCHEMA = "seap-export/golden/1"
#: Kept of each distribution: the logits of the most likely tokens and of tokens spread over the vocabulary.
_TOP, _SPREAD = 64, 64
_BATCH = 3


@dataclass(frozen=True)
class GoldenComparison:
    """How far a variant's results are from a golden file.

    Attributes:
        mean_kl: Mean KL divergence in nats over the most likely tokens, with all others merged into one; a lower bound
            of the divergence over the whole vocabulary.
    """

    tokens: int
    max_abs: float
    mean_kl: float
    limit: tuple[str, float]
    provider: str
    reasons: tuple[str, ...]

    @property
    def summary(self) -> str:
        verdict = "FAILED" if self.reasons else "passed"
        figure, value = self.limit
        return (
            f"golden {verdict}: max abs {self.max_abs:.2g}, mean KL {self.mean_kl:.2g} over {self.tokens} tokens "
            f"(limit: {figure} {value:g}) on {self.provider}"
        )

    def to_json(self) -> dict[str, Any]:
        values = {"schema": GOLDEN_SCHEMA, "verdict": "failed" if self.reasons else "passed", **asdict(self)}
        return {**values, "mean_kl": self.mean_kl if np.isfinite(self.mean_kl) else None}


def write_golden(
    folder: Path,
    target: Path,
    prompts: Sequence[str],
    steps: int,
    limit: tuple[str, float],
    provider: str = "cpu",
    threads: int | None = None,
) -> None:
    """Runs a variant and records what it computes.

    Args:
        folder: The variant's `onnx` folder.
        target: The .npz file to write.
        prompts: Texts; each runs alone, then the first three run as a batch.
        steps: Number of tokens to decode greedily after each prompt.
        limit: `max_abs` or `mean_kl`, and the largest value accepted on another machine.
        threads: Threads of the session; None: all cores.

    Raises:
        InputError: No prompt has a token.
    """
    tokenizer, decoder = _opened(folder, provider, threads)
    ids = [encode(tokenizer, prompt) for prompt in prompts]
    room = decoder.context_length - steps
    cut = [row[:room] for row in ids if row]
    if not cut:
        raise InputError("none of the prompts has a token; give others with --prompt-file")
    cases = [[row] for row in cut] + ([cut[:_BATCH]] if len(cut) > 1 else [])
    arrays: dict[str, NDArray[Any]] = {}
    forced: list[list[list[int]]] = []
    for number, rows in enumerate(cases):
        tokens: list[list[int]] = []
        parts = [_kept(logits) for logits in _run(decoder, rows, steps, tokens)]
        forced.append(tokens)
        arrays |= {f"{name}.{number}": np.stack([part[name] for part in parts]) for name in parts[0]}
    about = {
        "schema": GOLDEN_SCHEMA,
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()},
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
    """Runs a variant on the prompts of a golden file and compares the results.

    Args:
        path: The variant's folder or its `onnx` folder.
        golden: A file written by `write_golden`.
        threads: Threads of the session; None: all cores.

    Raises:
        UsageError: The file is not a golden file.
        ArtifactError: A file differs from the one that was recorded, or the tokenizer gives other token ids.
        EnvironmentFailure: The provider is not available on this machine.
    """
    folder = path / OWN_FORMAT if (path / OWN_FORMAT).is_dir() else path
    about, arrays = _read(golden)
    for name, digest in about["files"].items():
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: missing; copy the whole {OWN_FORMAT} folder")
        if sha256_file(folder / name) != digest:
            raise ArtifactError(f"{folder / name}: not the file that {golden} was made from; copy it again")
    tokenizer, decoder = _opened(folder, provider, threads)
    for prompt, ids in zip(about["prompts"], about["token_ids"], strict=True):
        if encode(tokenizer, prompt) != ids:
            raise ArtifactError(
                f"{folder}: its tokenizer gives other token ids here than on the machine that recorded {golden}; "
                "install the same version of tokenizers"
            )
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
    deviation = {"max_abs": largest, "mean_kl": mean}[figure]
    if not deviation <= value:
        reasons.append(f"{figure} {deviation:.3g} > {value:g}")
    tokens = sum(map(len, divergence))
    return GoldenComparison(tokens, largest, mean, (figure, float(value)), provider, tuple(reasons))


_PARTS = ("top_ids", "top_logits", "spread_logits", "log_sum")


def _opened(folder: Path, provider: str, threads: int | None) -> tuple[Any, OnnxDecoder]:
    refuse_changed(folder)
    config = folder / "genai_config.json"
    _, context_length = model_limits(config)
    options = decoder_options(config, provider)
    return load_tokenizer(folder), OnnxDecoder(folder / GRAPH, context_length, provider, threads, options)


def _run(
    decoder: OnnxDecoder, rows: list[list[int]], steps: int, forced: list[list[int]]
) -> Iterator[NDArray[np.float32]]:
    """Yields logits [rows, vocabulary] after the prompts and each step; extends `forced` greedily where it ends."""
    decoding = decoder.start(rows, steps)
    yield decoding.logits
    for step in range(steps):
        if step == len(forced):
            forced.append(decoding.logits.argmax(axis=1).tolist())
        decoding.step(forced[step])
        yield decoding.logits


def _kept(logits: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The parts of the logits [rows, vocabulary] that are recorded."""
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
    """The largest difference of a recorded logit, and the KL divergence of each row."""
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
            raise ValueError("it names files outside the folder")
    except FileNotFoundError as error:
        raise UsageError(f"{golden}: no such file; write it with 'seap-export validate --save-golden'") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        text = " ".join(str(error).split())
        reason = "not an .npz file of numbers" if "pickle" in text else text  # numpy offers to load it all the same
        raise UsageError(f"{golden}: not a golden file ({reason:.120}); write it again") from error
    return about, arrays
