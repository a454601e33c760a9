"""Which tasks a variant is made for, and with what weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seap_export.activations.mixture import Mixture
from seap_export.activations.statistics import Calibration
from seap_export.errors import UsageError
from seap_export.plan.plan import Plan

__all__ = ["GENERAL", "MixtureSpec", "open_mixture", "open_mixture_of", "parse_mixtures", "parse_weights"]

GENERAL = "general"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class MixtureSpec:
    """A name and the weight of each task, in the order of their names; a single task's own has the weight 1."""

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"mixture name {self.name!r} cannot name a folder; use up to 64 of A-Z a-z 0-9 - _ .")
        for task, weight in self.weights.items():
            if not 0.0 < weight < math.inf:
                raise UsageError(f"weight {weight:g} of task '{task}' is out of range; give a positive number")
        object.__setattr__(self, "weights", dict(sorted(self.weights.items())))  # whatever order they were given in


def parse_weights(values: Sequence[str], tasks: Sequence[str], separator: str = "=") -> dict[str, float]:
    """The weights of several `TASK=WEIGHT`.

    Raises:
        UsageError: One is malformed, names no task of this run, or a task is named twice.
    """
    weights: dict[str, float] = {}
    for value in values:
        task, _, text = value.partition(separator)
        try:
            weight = float(text) if text else 1.0
        except ValueError as error:
            raise UsageError(f"weight {value!r} is malformed; write TASK{separator}WEIGHT") from error
        if task not in tasks:
            raise UsageError(f"weight {value!r} names no task of this run; tasks: {', '.join(tasks)}")
        if task in weights:
            raise UsageError(f"task '{task}' has two weights; give one")
        weights[task] = weight
    return weights


def parse_mixtures(
    tasks: Sequence[str], *, general: bool, weights: Sequence[str], mixes: Sequence[str]
) -> tuple[MixtureSpec, ...]:
    """The mixtures of a run, beside its single tasks.

    Args:
        tasks: Names of the tasks.
        general: Whether to make a variant for all of them.
        weights: `TASK=WEIGHT` of the general variant; a task without one has the weight 1.
        mixes: `NAME=TASK:WEIGHT,TASK:WEIGHT...`; a weight left out is 1.

    Raises:
        UsageError: One is malformed, or a name is taken.
    """
    if weights and not general:
        raise UsageError("weights of tasks are for the general variant; add --general, or give a mix its own weights")
    found = []
    if general:
        found.append(MixtureSpec(GENERAL, dict.fromkeys(tasks, 1.0) | parse_weights(weights, tasks)))
    for mix in mixes:
        name, _, parts = mix.partition("=")
        if not name or not parts:
            raise UsageError(f"mixture {mix!r} is malformed; write NAME=TASK:WEIGHT,TASK:WEIGHT")
        found.append(MixtureSpec(name, parse_weights(parts.split(","), tasks, ":")))
    taken = {task.lower() for task in tasks}
    for mixture in found:
        if mixture.name.lower() in taken:
            raise UsageError(f"the name '{mixture.name}' is taken; rename the task or the mixture")
        taken.add(mixture.name.lower())
    return tuple(found)


def open_mixture(folders: Sequence[Path], weights: Sequence[str]) -> Mixture:
    """The statistics of one task, or of several with `TASK=WEIGHT` each, which are named `general` together.

    Raises:
        UsageError: A weight is malformed, or a task is given twice.
        ArtifactError: A folder holds no statistics.
        InputError: The statistics are of different models.
    """
    calibrations = _open(folders)
    own = dict.fromkeys(calibrations, 1.0) | parse_weights(weights, list(calibrations))
    spec = MixtureSpec(GENERAL if len(calibrations) > 1 else next(iter(calibrations)), own)
    return Mixture(spec.name, spec.weights, calibrations)


def open_mixture_of(plan: Plan, folders: Sequence[Path]) -> Mixture:
    """The statistics that a plan was made from.

    Raises:
        UsageError: They are of other tasks than the plan.
        ArtifactError: A folder holds no statistics.
        InputError: The statistics are of different models.
    """
    calibrations = _open(folders)
    if set(calibrations) != set(plan.weights):
        raise UsageError(
            f"the plan was made from the statistics of {', '.join(plan.weights)}, not of {', '.join(calibrations)}; "
            "give those as --calibration"
        )
    return Mixture(plan.task, plan.weights, calibrations)


def _open(folders: Sequence[Path]) -> dict[str, Calibration]:
    found: dict[str, Calibration] = {}
    for folder in folders:
        calibration = Calibration(folder)
        if calibration.record.task in found:
            raise UsageError(f"the statistics of task '{calibration.record.task}' are given twice; give them once")
        found[calibration.record.task] = calibration
    return found
