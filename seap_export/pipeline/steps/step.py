"""What all steps have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.pipeline.cost.cost import Cost
from seap_export.pipeline.folder.keys import step_key
from seap_export.pipeline.progress import Advance, Progress
from seap_export.pipeline.steps.planned_work import PlannedWork


@dataclass(frozen=True)
class Work:
    """What the making of every step is given.

    Attributes:
        source: The dense model.
        folder: The output folder, where the steps before are.
        compute: The device, and what the work may take of it.
        progress: Reports what happens.
        shared: The output folder that statistics and rankings are in; None: the same.
    """

    source: Source
    folder: Path
    compute: Compute
    progress: Progress
    shared: Path | None = None

    def of_task(self, step: Step) -> Path:
        """Where statistics or a ranking are."""
        return (self.shared or self.folder) / step.name


class Step(ABC):
    """One path in an output folder, and everything about it.

    A step holds settings and texts, but no model and no tensor, so that it can be sent to another process.

    Attributes:
        cost: What steps of this kind take.
        is_folder: Whether it makes a folder or a file.
        unit: What `units` counts, in the plural.
        resumes: Whether `make` goes on with what an interrupted call left in its folder.
    """

    cost: ClassVar[Cost]
    is_folder: ClassVar[bool] = True
    resumes: ClassVar[bool] = False
    unit: ClassVar[str] = "layers"

    @property
    @abstractmethod
    def name(self) -> str:
        """The path within the output folder."""

    @property
    def needs(self) -> tuple[Step, ...]:
        """The steps that must be made first."""
        return ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose texts it works on: those of the steps before it."""
        return tuple(dict.fromkeys(task for step in self.needs for task in step.tasks))

    @property
    def planned_work(self) -> PlannedWork:
        """What its making takes."""
        return PlannedWork(self.cost, self.tasks)

    @property
    @abstractmethod
    def label(self) -> str:
        """What is being done while it is made."""

    @property
    def reused(self) -> str | None:
        """What is said if it is there already."""
        return None

    @property
    def units(self) -> int | None:
        """How many units of work `make` reports; None if it does not know."""
        return None

    @cached_property
    def key(self) -> str:
        """The hash of everything that the result depends on, so that it is reused only for the same inputs."""
        return step_key(self._inputs())

    @abstractmethod
    def _inputs(self) -> dict[str, Any]:
        """What the result depends on, each by what a user calls it: with `RELEASE`, and the keys of the steps before.

        Paths and settings that change only the speed are left out.
        """

    @abstractmethod
    def make(self, work: Work, path: Path, advance: Advance) -> None:
        """Makes the step at `path`: an empty folder, what an earlier call left in it, or a file that is not there."""
