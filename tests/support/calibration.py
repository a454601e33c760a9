"""Micro models with statistics of random texts, collected undisturbed and interrupted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from seap_export.model.families.names import Projection
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import UNFINISHED
from seap_export.model.layers.working_memory import working_bytes
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.calibrate import collect_statistics
from seap_export.pruning.activations.statistics import (
    TOKENS,
    Calibration,
    CalibrationRecord,
    SublayerStatistics,
    write_layer,
    write_record,
    write_sensitivity,
    write_tokens,
)
from seap_export.pruning.activations.task_mixture import TaskMixture
from support.corpora import Texts, random_token_ids
from support.models import skip_unless_loaded


def statistics_in(folder: Path, source: Source, texts: Texts, max_batch_tokens: int = 1024, **options: Any) -> Path:
    """The folder, with all but the record in it."""
    skip_unless_loaded(source.spec.family)
    folder.mkdir(parents=True, exist_ok=True)
    collect_statistics(source, texts, folder, Compute(batch_tokens=max_batch_tokens), **options)
    return folder


def calibration_in(folder: Path, source: Source, task: str, texts: Texts) -> Calibration:
    """A calibration, given all but its record."""
    origin, count = (task, source.name, source.digest, 0, 64), sum(map(len, texts))
    write_record(folder, CalibrationRecord(*origin, count, (f"{task}-aa",), (f"{task}-bb",), ()))
    return Calibration(folder)


def write_calibration(
    folder: Path,
    source: Source,
    task: str,
    layers: Sequence[Mapping[Projection, SublayerStatistics]],
    sensitivity: torch.Tensor,
    texts: Texts,
) -> Calibration:
    folder.mkdir(parents=True, exist_ok=True)
    for index, layer in enumerate(layers):
        write_layer(folder, index, layer)
    write_tokens(folder / TOKENS, texts)
    write_sensitivity(folder, sensitivity)
    (folder / UNFINISHED).rmdir()
    return calibration_in(folder, source, task, texts)


def mixture_of(source: Source, folder: Path, tasks: Mapping[str, Texts], **weights: float) -> TaskMixture:
    """The statistics of texts of several tasks, each with the weight 1 if none is given."""
    calibrations = {
        task: calibration_in(statistics_in(folder / task, source, texts), source, task, texts)
        for task, texts in tasks.items()
    }
    name = "general" if len(tasks) > 1 else next(iter(tasks))
    return TaskMixture(name, dict.fromkeys(tasks, 1.0) | weights, calibrations)


def single_mixture(calibration: Calibration) -> TaskMixture:
    task = calibration.record.task
    return TaskMixture(task, {task: 1.0}, {task: calibration})


#: More tokens than the sensitivity is taken from, in several batches.
TOKEN_IDS: Texts = random_token_ids(45)
BATCH_TOKENS = 64
Make = Callable[[Path], None]


class Killed(BaseException):
    """Like the end of the process: nothing may catch it."""


def file_contents(folder: Path) -> MappingProxyType[str, bytes]:
    """The files of a folder; it holds nothing that is unfinished."""
    return MappingProxyType({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def compute_on_disk(source: Source) -> Compute:
    """So little memory that hidden states and inputs are on disk."""
    return Compute(memory=working_bytes(source.spec, BATCH_TOKENS), batch_tokens=BATCH_TOKENS)


def compute_in_memory() -> Compute:
    return Compute(batch_tokens=BATCH_TOKENS)


def die_at(monkeypatch: pytest.MonkeyPatch, where: object, name: str, call: int) -> None:
    """The given call of a function or method, counted from 0, raises `Killed` before it does anything."""
    plain, calls = getattr(where, name), [0]

    def dying(*arguments: object, **keywords: object) -> object:
        calls[0] += 1
        if calls[0] == call + 1:
            raise Killed
        return plain(*arguments, **keywords)

    monkeypatch.setattr(where, name, dying)
