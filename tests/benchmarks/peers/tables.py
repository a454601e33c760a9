"""The Markdown tables of `peers_table`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.peers.artifacts import Written
from benchmarks.peers.contest import Result
from benchmarks.peers.loops import LoopResult
from benchmarks.process import megabytes

from validation.reports.markdown import markdown_table
from validation.speed.measure import Timing


def writers_table(written: Mapping[str, Written]) -> str:
    """The table of the cost of writing each artifact."""
    return markdown_table(
        ("artifact", "wall", "peak memory", "ONNX on disk", "written"),
        [
            (
                name,
                f"{cost.wall_s:.2f} s",
                megabytes(cost.peak_bytes),
                f"{cost.onnx_bytes / 1e6:.1f} MB",
                "in an earlier run" if cost.is_reused else "now",
            )
            for name, cost in written.items()
        ],
    )


def sessions_table(results: Mapping[str, Result]) -> str:
    """Agreement and times of graphs in plain sessions."""
    return markdown_table(
        ("artifact", "max abs", "same tokens", "prefill", "p95", "decode step"),
        [
            (name, f"{result.agreement.max_abs:.1e}", f"{result.agreement.same_tokens:.0%}", *_times(result.timing))
            for name, result in results.items()
        ],
    )


def loops_table(results: Mapping[str, LoopResult], tokens: Sequence[int]) -> str:
    """Times of generation loops, and how many of their tokens are the fp32 reference's."""
    return markdown_table(
        ("artifact, loop", "same tokens", "first token", "p95", "each later token"),
        [(name, f"{_same(result.tokens, tokens):.0%}", *_times(result.timing)) for name, result in results.items()],
    )


def ratios_table(timings: Mapping[str, Timing], ours: Sequence[str]) -> str:
    """Our time over that of each peer, for prefill / decode step; below 1, ours is faster."""
    rows = []
    for name, peer in timings.items():
        if name not in ours:
            cells = [_ratio(timings[our_name], peer) for our_name in ours]
            rows.append([name, *cells])
    return markdown_table(("ours / peer: prefill / decode", *ours), rows)


def _ratio(ours: Timing, peer: Timing) -> str:
    return f"{ours.prefill_s / peer.prefill_s:.2f} / {ours.step_s / peer.step_s:.2f}"


def _times(timing: Timing) -> tuple[str, str, str]:
    return (
        f"{timing.prefill_s * 1e3:.1f} ms",
        f"{timing.prefill_p95_s * 1e3:.1f} ms",
        f"{timing.step_s * 1e3:.2f} ms",
    )


def _same(tokens: Sequence[int], expected: Sequence[int]) -> float:
    return sum(one == other for one, other in zip(tokens, expected, strict=True)) / len(expected)
