"""The tasks that a variant is made for, and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seap_export.corpus import Task
from seap_export.corpus.names import NAME_RULE, is_folder_name
from seap_export.corpus.parse import parse_task
from seap_export.errors import UsageError, refuse_missing
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.plan import Plan

GENERAL = "general"
#: The name of the text of --support among the tasks, and its share by default.
SUPPORT, _SHARE = "support", 0.3


@dataclass(frozen=True)
class MixtureSpec:
    """A name and the weight of each task, sorted by task name; a single task has the weight 1."""

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not is_folder_name(self.name):
            raise UsageError(f"mixture name {self.name!r} cannot name a folder; use {NAME_RULE}")
        for task, weight in self.weights.items():
            if not 0.0 < weight < math.inf:
                raise UsageError(f"weight {weight:g} of task '{task}' is out of range; give a positive number")
        object.__setattr__(self, "weights", dict(sorted(self.weights.items())))  # independent of the given order


@dataclass(frozen=True)
class Support:
    """General text that every variant is made from as well.

    Attributes:
        share: The fraction of each mixture, between 0 and 1.
    """

    task: Task
    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(f"--support: the share {self.share:g} is out of range; give a number between 0 and 1")

    def added_to(self, mixture: MixtureSpec) -> MixtureSpec:
        """The mixture with this text as one more task."""
        scale = (1.0 - self.share) / sum(mixture.weights.values())
        weights = {task: weight * scale for task, weight in mixture.weights.items()}
        return MixtureSpec(mixture.name, {**weights, self.task.name: self.share})


def parse_support(text: str) -> Support:
    """The text of `SOURCE` or `SOURCE:SHARE`, as a task named `support`.

    Raises:
        UsageError: The share is out of range.
        InputError, EnvironmentFailure: As for `parse_task`.
    """
    source, _, end = text.rpartition(":")
    try:
        share = float(end)
    except ValueError:
        source, share = text, _SHARE
    return Support(parse_task(f"{SUPPORT}={source}"), share)


def parse_weights(values: Sequence[str], tasks: Sequence[str], separator: str = "=") -> dict[str, float]:
    weights: dict[str, float] = {}
    for value in values:
        task, _, text = value.partition(separator)
        try:
            weight = float(text) if text else 1.0
        except ValueError as error:
            raise UsageError(f"weight {value!r} is malformed; write TASK{separator}WEIGHT") from error
        if task not in tasks:
            raise UsageError(f"weight {value!r} does not name a task of this run; use one of: {', '.join(tasks)}")
        if task in weights:
            raise UsageError(f"task '{task}' has two weights; give one")
        weights[task] = weight
    return weights


def parse_mixtures(
    tasks: Sequence[str], *, general: bool, weights: Sequence[str], mixes: Sequence[str]
) -> tuple[MixtureSpec, ...]:
    """The mixtures of a run, in addition to its single tasks.

    Args:
        general: Whether to make a variant for all of them.
        weights: `TASK=WEIGHT` for the general variant; the default weight is 1.
        mixes: `NAME=TASK:WEIGHT,TASK:WEIGHT...`; the default weight is 1.

    Raises:
        UsageError: A value is malformed, a name is already used, or there is one task for the general variant.
    """
    if weights and not general and len(tasks) < 2:
        raise UsageError("weights have no effect on one task; leave them out")
    if weights and not general:
        raise UsageError("weights of tasks are for the general variant; add --general, or give a mix its own weights")
    mixtures = []
    if general:
        mixtures.append(MixtureSpec(GENERAL, dict.fromkeys(tasks, 1.0) | parse_weights(weights, tasks)))
    for mix in mixes:
        name, _, parts = mix.partition("=")
        if not name or not parts:
            raise UsageError(f"mixture {mix!r} is malformed; write NAME=TASK:WEIGHT,TASK:WEIGHT")
        mixtures.append(MixtureSpec(name, parse_weights(parts.split(","), tasks, ":")))
    taken = {task.lower() for task in tasks}
    for mixture in mixtures:
        if mixture.name.lower() in taken:
            raise UsageError(f"the name '{mixture.name}' is already used; rename the task or the mixture")
        taken.add(mixture.name.lower())
    if general and len(tasks) < 2:
        raise UsageError("--general makes a variant for all tasks together, and there is one task; leave it out")
    return tuple(mixtures)


def open_mixture(folders: Sequence[Path], weights: Sequence[str]) -> TaskMixture:
    """Opens the statistics of one task, or of several weighted by `TASK=WEIGHT`, together named `general`.

    Raises:
        UsageError: A weight is malformed, or a task is given twice.
        ArtifactError: A folder has no statistics.
        InputError: The statistics belong to different models.
    """
    calibrations = _open(folders)
    all_weights = dict.fromkeys(calibrations, 1.0) | parse_weights(weights, list(calibrations))
    spec = MixtureSpec(GENERAL if len(calibrations) > 1 else next(iter(calibrations)), all_weights)
    return TaskMixture(spec.name, spec.weights, calibrations)


def open_mixture_of(plan: Plan, folders: Sequence[Path]) -> TaskMixture:
    """Opens the statistics that a plan was made from."""
    calibrations = _open(folders)
    if set(calibrations) != set(plan.weights):
        raise UsageError(
            f"the plan was made from the statistics of {', '.join(plan.weights)}, not of {', '.join(calibrations)}; "
            "give those as --calibration"
        )
    return TaskMixture(plan.task, plan.weights, calibrations)


def _open(folders: Sequence[Path]) -> dict[str, Calibration]:
    calibrations: dict[str, Calibration] = {}
    for folder in folders:
        refuse_missing(folder)
        calibration = Calibration(folder)
        if calibration.record.task in calibrations:
            raise UsageError(f"the statistics of task '{calibration.record.task}' are given twice; give them once")
        calibrations[calibration.record.task] = calibration
    return calibrations
