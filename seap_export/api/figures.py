"""The figures of a variant that the Python API returns: sizes, quality and speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from validation.estimate import TokenEstimate
    from validation.reports.speedups import MeasuredSpeedup


@dataclass(frozen=True)
class FormatFigures:
    """A folder of a variant that a format wrote.

    Attributes:
        path: The folder.
        precision: The precision of its weights, such as `int8`; None for `hf`, which has that of the dense model.
        bytes: The size of its files.
        dense_bytes: About the size of the dense model in the same form; None: unknown.
        parity: The verdict of its comparison with torch; None: it was not compared, as `hf` never is.
        max_abs: The largest difference of a logit in that comparison; None: unknown.
    """

    path: Path
    precision: str | None
    bytes: int
    dense_bytes: int | None
    parity: Literal["passed", "failed", "not judged"] | None
    max_abs: float | None


@dataclass(frozen=True)
class Figures:
    """How much smaller, faster and worse than the dense model a variant is. None: not measured, or unknown.

    Attributes:
        task: The task or the mixture that it was made for.
        requested_ratio: The fraction of the weights of attention and MLP that should be removed.
        ratio: The fraction that was removed.
        num_parameters: The number of parameters of the variant.
        dense_parameters: The number of parameters of the dense model.
        formats: The written formats, by folder: `hf`, `onnx` and others.
        kl: KL divergence from the dense model on held-out texts, in nats per token, with what dropped tokens lose:
            `mean`, its standard error `stderr` over the texts, and `median`, `p99`, `p999` and `max` over the tokens.
            `kl.minus(other)` is the difference from another variant on the same texts, with its own error.
        top1_agreement: The fraction of tokens for which both models rank the same token first.
        perplexity: The perplexity of the variant on the held-out texts.
        dense_perplexity: The perplexity of the dense model on these texts.
        decode_speedup: The speed-up of a decode step, with `value`, `low`, `high`, `ideal`, `ms`, `dense_ms` and more.
        prefill_speedup: The speed-up of the time to the first token.
    """

    task: str | None
    requested_ratio: float | None
    ratio: float | None
    num_parameters: int | None
    dense_parameters: int | None
    formats: Mapping[str, FormatFigures]
    kl: TokenEstimate | None
    top1_agreement: float | None
    perplexity: float | None
    dense_perplexity: float | None
    decode_speedup: MeasuredSpeedup | None
    prefill_speedup: MeasuredSpeedup | None


def figures_of(folder: Path, described: Mapping[str, Any]) -> Figures:
    """The figures of the variant in a folder, taken from its description in a validation report."""
    from validation.estimate import TokenEstimate
    from validation.reports.figures import divergence_of
    from validation.reports.speedups import speedups

    quality = divergence_of(described["quality"]) or {}
    decode, prefill = (next(iter(speedups(described["speed"], kind)), None) for kind in ("decode", "prefill"))
    return Figures(
        task=described["task"],
        requested_ratio=described["requested_ratio"],
        ratio=described["achieved_ratio"],
        num_parameters=described["num_parameters"],
        dense_parameters=described["dense_parameters"],
        formats={name: _format(folder / name, described) for name in described["bytes"]},
        kl=TokenEstimate.read(quality) if "kl_nats_by_text" in quality else None,
        top1_agreement=quality.get("top1_agreement"),
        perplexity=quality.get("perplexity"),
        dense_perplexity=quality.get("dense_perplexity"),
        decode_speedup=decode,
        prefill_speedup=prefill,
    )


def _format(path: Path, described: Mapping[str, Any]) -> FormatFigures:
    # A folder that was compared in several runtimes has `onnx` and `onnx in RUNTIME`.
    compared = [report for name, report in described["parity"].items() if name.split(" in ")[0] == path.name]
    differences = [report["max_abs"] for report in compared]
    return FormatFigures(
        path=path,
        precision=described["formats"].get(path.name, {}).get("precision"),
        bytes=described["bytes"][path.name],
        dense_bytes=described["dense_bytes"].get(path.name),
        parity=_verdict([report["verdict"] for report in compared]),
        max_abs=None if not differences or None in differences else max(differences),
    )


def _verdict(verdicts: list[str]) -> Literal["passed", "failed", "not judged"] | None:
    known: tuple[Literal["failed", "not judged", "passed"], ...] = ("failed", "not judged", "passed")
    return next((verdict for verdict in known if verdict in verdicts), None)
