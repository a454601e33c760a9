"""The base classes of all steps, and their execution in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from seap_export.corpus import Split, Task
from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.evaluation.asked import Asked, questions_to_ask
from seap_export.pipeline.folder.keys import step_key
from seap_export.pipeline.folder.manifest import made_with
from seap_export.pipeline.folder.outputs import alone, go_on
from seap_export.pipeline.folder.performance import Performance
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.progress import Advance, Progress


@dataclass(frozen=True)
class StepContext:
    """The model, folders and machine with which steps are made.

    Attributes:
        shared: The output folder that statistics and rankings are in; None: `folder` itself.
    """

    source: Source
    folder: Path
    compute: Compute
    progress: Progress
    shared: Path | None = None

    def of_task(self, step: PathStep) -> Path:
        """The path of a step of a task or mixture: statistics or a ranking."""
        return (self.shared or self.folder) / step.name


def _no_folder() -> Path:
    raise RuntimeError("these steps have no dense model as a folder")


@dataclass
class Made:
    """An output folder, and the results of a run so far.

    Attributes:
        dense: The dense model as a folder that transformers loads. The first call takes time and disk space if the
            model is of another form.
    """

    work: StepContext
    workspace: Workspace
    performance: Performance = field(default_factory=Performance)
    dense: Callable[[], Path] = _no_folder
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: dict[str, Path] = field(default_factory=dict)
    asked: dict[tuple[str, ...], Asked] = field(default_factory=dict)
    report: ValidationReport | None = None

    def questions(self, tasks: Iterable[Task], splits: Mapping[str, Split]) -> Asked:
        """The held-out questions of some tasks, which are read once; see `questions_to_ask`."""
        named = {task.name: task for task in tasks}
        if (names := tuple(named)) not in self.asked:
            asked = questions_to_ask(named.values(), splits, self.work.source, self.work.progress)
            self.asked[names] = asked
        return self.asked[names]

    def enter(self, variant: str) -> None:
        """Puts a finished variant on the list of the manifest, from which each new file of it takes it off."""
        self.workspace.manifest.variants[variant] = self.variants[variant]

    def write_file(self, step: str, content: bytes, key: str) -> None:
        """Writes a file, unless it is there; one of other content that an export wrote is replaced.

        Args:
            key: Changes whenever the content does.
        """
        workspace = self.workspace
        if workspace.manifest.steps.get(step, key) != key:
            workspace.remove(step)
        if not workspace.is_done(step, key):
            with workspace.writing(step, key, folder=False) as path:
                path.write_bytes(content)


class Step(ABC):
    """A part of an export, and everything about it.

    Steps are made in the order of a list. One that is not a `PathStep` is made in the process that writes the folder,
    once all before it are: it reads what they have made, and changes the manifest, which has one writer.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the step counts among the steps of a run and in performance.json."""
        return ()  # what takes no time worth showing

    @abstractmethod
    def run(self, made: Made) -> None:
        """Makes everything of this step that is not there yet."""


def run_steps(steps: Iterable[Step], made: Made) -> None:
    """Makes steps one after the other, in this process."""
    for step in steps:
        step.run(made)


class PathStep(Step):
    """A step that makes one file or folder in an output folder.

    It holds settings and texts, but no model and no tensor, and `make` writes to its path alone, so that it can be
    sent to another process.

    Attributes:
        unit: The name of the units that `units` counts, in the plural.
        resumes: Whether `make` goes on with what an interrupted call left in its folder.
    """

    is_folder: ClassVar[bool] = True
    resumes: ClassVar[bool] = False
    unit: ClassVar[str] = "layers"

    @property
    @abstractmethod
    def name(self) -> str:
        """The path of the step within the output folder, which is also its name."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def needs(self) -> tuple[PathStep, ...]:
        """The steps that must be made before this one."""
        return ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose texts it works on: those of the steps before it."""
        return tuple(dict.fromkeys(task for step in self.needs for task in step.tasks))

    @property
    @abstractmethod
    def label(self) -> str:
        """The label that progress shows while the step is made."""

    @property
    def reused(self) -> str | None:
        """The message to print if the step is there already; None: nothing."""
        return None

    def size(self, dense: Sizes) -> int:
        """About how many bytes it leaves on the disk, if its ratio is achieved; of small files, 0."""
        return 0

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
        """The inputs that the result depends on, by names for users, with `RELEASE` and the keys of the steps before.

        Paths and settings that change only the speed are left out.
        """

    @abstractmethod
    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Makes the step at `path`: an empty folder, what an earlier call left in it, or a file that is not there."""

    def make_or_continue(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Makes it at a path that is held `alone`, on top of an interrupted call's usable files if it resumes."""
        if self.resumes and (line := go_on(path, made_with(work.compute))):
            work.progress.warn(f"{self.label}: {line}")
        self.make(work, path, advance)

    def run(self, made: Made) -> None:
        if not made.workspace.is_done(self.name, self.key):
            make_step(self, made.work, made.workspace)
        elif self.reused is not None:
            made.work.progress.say(self.reused)


def make_step(step: PathStep, work: StepContext, workspace: Workspace) -> None:
    """Makes a step at a temporary path, records it, and moves it into the output folder."""
    with (
        work.progress.step(step.label, step.units, step.unit, name=step.name) as advance,
        workspace.writing(step.name, step.key, folder=step.is_folder, resumes=step.resumes) as path,
        alone(path),
    ):
        step.make_or_continue(work, path, advance)
