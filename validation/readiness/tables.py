"""The figures of a run as tables, in the form that docs/measurements.md has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from validation.readiness.machine import read_json
from validation.readiness.request import RATIOS, Request

#: Speed-ups of Llama-2-7B's generation in PyTorch on one GPU, from "SEAP", arXiv 2503.07605: removed fraction of the
#: weights -> method -> times as many tokens per second as the dense model.
PAPER: Mapping[float, Mapping[str, float]] = {
    0.2: {"SEAP-gen": 1.17, "FLAP": 1.22},
    0.5: {"SEAP-gen": 1.48, "FLAP": 1.50},
}
SPEED_HEADER = (
    "model", "variant", "precision", "on disk", "prompt", "prefill", "× dense", "decode step", "× dense", "of ideal",
    "paper, Llama-2-7B",
)  # fmt: skip
PARITY_HEADER = ("form", "verdict", "mean KL", "max abs", "top-1", "tokens in the longest case", "not on the provider")
PROFILE_HEADER = ("provider", "operator", "nodes", "launch time")


def speed_rows(request: Request) -> list[dict[str, Any]]:
    """A row for each model, precision and length of the prompt that `bench` timed."""
    small = [(Path(request.model).stem, f"bench-{precision}") for precision in request.precisions]
    billions = f"{request.large.spec.num_parameters() / 1e9:.1f} B random weights"
    large = [(billions, f"large-bench-{ratio:g}") for ratio in RATIOS]
    rows = []
    for model, name in small + large:
        report = read_json(request.result(name))
        precision = _precision(report.get("setting", {}).get("form", {}))
        for subject in report.get("subjects", ()):
            measured = {"model": model, "variant": subject["model"], "precision": precision, "step": name}
            size = {"disk_bytes": subject["disk_bytes"], "paper": _paper(subject["model"])}
            rows += [{**measured, **size, **cell} for cell in subject["cells"]]
    return rows


def speed_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as Markdown's cells."""
    paper = ", ".join(f"{method} {times:.2f}" for method, times in (row["paper"] or {}).items())
    return (
        row["model"],
        row["variant"],
        row["precision"],
        f"{row['disk_bytes'] / 1e6:.1f} MB",
        f"{row['depth']} tokens",
        f"{row['prefill_s'] * 1e3:.2f} ms",
        _speedup(row, "prefill"),
        f"{row['decode_step_s'] * 1e3:.3f} ms",
        _speedup(row, "decode"),
        f"{row['decode_share_of_ideal']:.0%}",
        paper,
    )


def parity_rows(request: Request) -> list[dict[str, Any]]:
    """A row for each form that was compared with torch."""
    rows = []
    for precision, dialect in request.forms:
        report = read_json(request.result(f"parity-{precision}-{dialect}"))
        for variant in (report.get("variants") or {}).values():
            parity = (variant.get("parity") or {}).get("onnx")
            if not parity:
                continue
            names = ("verdict", "mean_kl_nats", "max_abs", "top1_agreement", "longest_tokens", "provider", "reasons")
            rows.append({"form": f"{precision}, {dialect}", **{name: parity.get(name) for name in names}})
    return rows


def parity_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as Markdown's cells."""
    figures = [
        _figure(row["mean_kl_nats"], ".1e"),
        _figure(row["max_abs"], ".1e"),
        _figure(row["top1_agreement"], ".1%"),
    ]
    nodes = row["provider"]["nodes"] or {}
    elsewhere = [
        f"{count} {operator}"
        for provider, operators in nodes.items()
        if provider != row["provider"]["obtained"]
        for operator, count in operators.items()
    ]
    return (row["form"], row["verdict"], *figures, str(row["longest_tokens"]), ", ".join(elsewhere) or "none")


def profile_rows(request: Request) -> list[tuple[str, ...]]:
    """A row for each operator of a decode step."""
    figures = read_json(request.result("profile"))
    times = figures.get("microseconds", {})
    return [
        (provider, operator, str(count), f"{times.get(operator, 0)} µs")
        for provider, operators in figures.get("step", {}).items()
        for operator, count in operators.items()
    ]


def _precision(form: Mapping[str, Any]) -> str:
    precision = form.get("precision") or {}
    how = precision.get("quantization")
    return f"int{how['bits']}" if how else str(precision.get("dtype", ""))


def _paper(variant: str) -> Mapping[str, float] | None:
    return next((figures for ratio, figures in PAPER.items() if variant.endswith(f"-{ratio:g}")), None)


def _speedup(row: Mapping[str, Any], what: str) -> str:
    low, high = row[f"{what}_speedup_low"], row[f"{what}_speedup_high"]
    span = "" if low is None or row["variant"] == "dense" else f" ({low:.2f} to {high:.2f})"
    return f"{row[f'{what}_speedup']:.2f}{span}"


def _figure(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)
