"""frontier.json: what was evaluated to meet the targets, which points others beat, and what was chosen.

Figures are found again by their keys, so that an interrupted search goes on. The file is not part of the manifest:
with a target for the speed it holds measured speeds, which differ from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.errors import SeapError
from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.targets.candidate import Candidate, CandidateFigures, Point
from seap_export.pipeline.targets.guess import Guess
from seap_export.pipeline.targets.targets import Targets

FRONTIER = "frontier.json"
FRONTIER_SCHEMA = "seap-export/frontier/1"
_OF_A_POINT = {
    "variant": str,
    "ratio": int | float,
    "format": str,
    "precision": str,
    "vocabulary": str | int,
    "bytes": int,
    "mean_kl_nats": int | float,
    "mean_kl_nats_stderr": int | float | None,
    "lost_kl_nats": int | float,
    "kl_difference": int | float | None,
    "kl_difference_stderr": int | float | None,
    "top1_agreement": int | float,
    "top1_agreement_stderr": int | float | None,
    "decode_ideal_speedup": int | float,
    "decode_speedup": int | float | None,
    "decode_speedup_low": int | float | None,
    "decode_speedup_high": int | float | None,
    "beaten": bool,
    "chosen": bool,
    "key": str | None,
}


@dataclass(frozen=True)
class Frontier:
    """The candidates that were evaluated for a task or mixture, and the chosen one.

    Attributes:
        points: The evaluated candidates, in the order of evaluation.
        chosen: The candidate that is exported; None: none is chosen yet, or no point meets the targets.
        soonest_ms: Milliseconds to the first token that everything is predicted to take at least; None: not known.
        smallest_bytes: The size that every folder is predicted to have at least; None: not known.
        guess: What rounding and pruning were guessed to cost, with the key of its inputs; None: nothing was guessed.
    """

    points: tuple[Point, ...]
    chosen: Candidate | None
    soonest_ms: float | None = None
    smallest_bytes: int | None = None
    guess: Mapping[str, Any] | None = None

    def to_json(self, task: str) -> dict[str, Any]:
        """The points by size, each with its variant's name."""
        rows, best = [], next((point for point in self.points if point.candidate == self.chosen), None)
        for point in sorted(self.points, key=lambda point: (point.figures.bytes, point.candidate.label)):
            beaten = any(other.beats(point) for other in self.points)
            chosen = point.candidate == self.chosen
            name = variant_name(task, point.candidate.ratio)
            more = None if best is None or chosen else point.figures.kl.minus(best.figures.kl)
            paired = {
                "kl_difference": None if more is None else more.mean,
                "kl_difference_stderr": None if more is None else more.stderr,
            }
            rows.append({"variant": name, **point.to_json(), **paired, "beaten": beaten, "chosen": chosen})
        return {"points": rows, **({} if self.guess is None else {"guess": dict(self.guess)})}


def frontier_json(targets: Targets, baseline: str, tasks: Mapping[str, Frontier]) -> dict[str, Any]:
    return {
        "schema": FRONTIER_SCHEMA,
        "targets": targets.to_json(),
        "speedups_over": baseline,
        "tasks": {name: frontier.to_json(name) for name, frontier in tasks.items()},
    }


def write_frontier(values: Mapping[str, Any], folder: Path) -> None:
    """Replaces frontier.json in a folder atomically."""
    with write_whole(folder / FRONTIER, force=True) as path:
        write_json(path, values)


def read_frontier(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's file; None if it has none, or one of another version.

    The file has no hash, so one that is not as `write_frontier` leaves it counts as missing.
    """
    with suppress(SeapError, KeyError, TypeError, ValueError, AttributeError):
        if (folder / FRONTIER).is_file():
            values = read_artifact(folder / FRONTIER)
            rows: Sequence[Any] = [row for task in values["tasks"].values() for row in task["points"]]
            is_whole = all(isinstance(row[key], kind) for row in rows for key, kind in _OF_A_POINT.items())
            if is_whole and values["schema"] == FRONTIER_SCHEMA and isinstance(values["speedups_over"], str):
                Targets.read(values["targets"])
                return values
    return None


def known_figures(folder: Path) -> dict[str, CandidateFigures]:
    """The figures of candidates that an earlier search measured, by their keys."""
    figures = {}
    for task in (read_frontier(folder) or {"tasks": {}})["tasks"].values():
        for row in task["points"]:
            with suppress(KeyError, TypeError, ValueError):
                if row["key"] is not None:
                    figures[row["key"]] = CandidateFigures.read(row)
    return figures


def known_guesses(folder: Path) -> dict[str, Guess]:
    """The guesses of an earlier search, by the keys of its inputs."""
    guesses = {}
    for task in (read_frontier(folder) or {"tasks": {}})["tasks"].values():
        with suppress(KeyError, TypeError, ValueError):
            guesses[task["guess"]["key"]] = Guess.read(task["guess"])
    return guesses
