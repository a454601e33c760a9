"""performance.json: how long each step of an export took, how much memory it used, and how fast the variants run.

It is a separate file and not part of the manifest, because these figures differ from run to run while the artifacts
do not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.common.memory import peak_memory, reset_peak_memory
from seap_export.errors import ArtifactError
from seap_export.pipeline.folder.manifest import MANIFEST
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.progress import Advance, Progress

PERFORMANCE = "performance.json"
PERFORMANCE_SCHEMA = "seap-export/performance/1"


@dataclass(frozen=True)
class StepFigures:
    """The time and memory that one step took.

    Attributes:
        seconds: Wall time.
        peak_bytes: Peak resident memory of the process during the step, or up to its end where the system keeps only
            one peak for the whole process; None where it cannot be measured.
    """

    seconds: float
    peak_bytes: int | None


@dataclass
class Performance:
    """The figures of an output folder.

    Attributes:
        speed: The latest speed figures of each variant, by name; see `pipeline.speed`.
    """

    steps: dict[str, StepFigures] = field(default_factory=dict)
    speed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replaces performance.json in an output folder atomically."""
        values = {
            "schema": PERFORMANCE_SCHEMA,
            "steps": {name: asdict(figures) for name, figures in sorted(self.steps.items())},
            "speed": dict(sorted(self.speed.items())),
        }
        with write_whole(folder / PERFORMANCE, force=True) as path:
            write_json(path, values)


def read_performance(folder: Path) -> Performance:
    """The figures of a folder; none if the file is missing, damaged or of another version."""
    if not (folder / PERFORMANCE).is_file():
        return Performance()
    with suppress(ArtifactError, KeyError, TypeError, AttributeError):
        values = read_artifact(folder / PERFORMANCE)
        if values["schema"] == PERFORMANCE_SCHEMA:
            steps = {name: StepFigures(**figures) for name, figures in values["steps"].items()}
            return Performance(steps, {name: dict(figures) for name, figures in values["speed"].items()})
    return Performance()


class Timed:
    """A `Progress` that numbers the steps of a run and records what each one costs.

    Attributes:
        planned: The names of the steps, in order; steps that are reused are skipped.
    """

    def __init__(self, progress: Progress) -> None:
        """Wraps `progress`, through which the steps are shown."""
        self._progress = progress
        self.planned: Sequence[str] = ()
        self.steps: dict[str, StepFigures] = {}

    @contextmanager
    def step(
        self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None
    ) -> Iterator[Advance]:
        """Shows the step, with its number if it was planned, and records it if it has a name."""
        if name is None:
            with self._progress.step(label, total, unit) as advance:
                yield advance
            return
        reset_peak_memory()
        start = time.perf_counter()
        with self._progress.step(self.numbered(label, name), total, unit) as advance:
            yield advance
        self.steps[name] = StepFigures(round(time.perf_counter() - start, 3), peak_memory())

    def numbered(self, label: str, name: str) -> str:
        """The label of a step, with its number among the planned steps if it is one of them."""
        return f"[{self.planned.index(name) + 1}/{len(self.planned)}] {label}" if name in self.planned else label

    def say(self, message: str) -> None:
        self._progress.say(message)

    def warn(self, message: str) -> None:
        """Prints a one-line message that the user should read."""
        self._progress.warn(message)


@contextmanager
def recorded(folder: Path, timed: Timed) -> Iterator[Performance]:
    """Yields the figures of an output folder, and writes them with what the run's steps cost, also if the block fails.

    Nothing is written while the folder has no manifest, nor where the disk is full.
    """
    performance = read_performance(folder)
    try:
        yield performance
    finally:
        performance.steps |= timed.steps
        if (folder / MANIFEST).is_file():
            with suppress(OSError):
                performance.write(folder)
