"""The calibration step: the tasks that are not yet calibrated, in one run over the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from seap_export.activations.statistics import (
    CALIBRATION_SCHEMA,
    Calibration,
    CalibrationRecord,
    write_calibration,
)
from seap_export.corpus import Sample, Split, Task, split_samples
from seap_export.hashing import sha256_json
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.settings import CalibrationSettings
from seap_export.pipeline.workspace import Workspace
from seap_export.sources.source import Source

__all__ = ["calibrate_tasks", "calibration_key", "calibration_step", "split_tasks"]


def split_tasks(tasks: Sequence[Task], settings: CalibrationSettings) -> dict[str, Split]:
    """Each task's calibration and held-out texts."""
    return {
        task.name: split_samples(
            task.name,
            task.texts(),
            num_samples=settings.samples,
            num_held_out=settings.held_out,
            seed=settings.seed,
        )
        for task in tasks
    }


def calibration_step(task: str) -> str:
    """Where a task's statistics are kept in an output folder."""
    return f"calibration/{task}"


def calibration_key(source: Source, split: Split, settings: CalibrationSettings) -> str:
    """The hash of all that a task's statistics depend on."""
    return sha256_json(
        [CALIBRATION_SCHEMA, source.digest, split.digests(), settings.seed, settings.max_length]
    )


def calibrate_tasks(
    source: Source,
    splits: Mapping[str, Split],
    settings: CalibrationSettings,
    workspace: Workspace,
    progress: Progress,
) -> dict[str, Calibration]:
    """Calibrates the tasks whose statistics are not in the workspace yet, and opens those of all."""
    keys = {task: calibration_key(source, split, settings) for task, split in splits.items()}
    missing = [task for task in splits if not workspace.is_done(calibration_step(task), keys[task])]
    for task in splits.keys() - set(missing):
        progress.say(f"calibration of {task}: reused")
    if missing:
        _calibrate(source, {task: splits[task] for task in missing}, keys, settings, workspace, progress)
    return {task: Calibration(workspace.folder / calibration_step(task)) for task in splits}


def _calibrate(
    source: Source,
    splits: Mapping[str, Split],
    keys: Mapping[str, str],
    settings: CalibrationSettings,
    workspace: Workspace,
    progress: Progress,
) -> None:
    from seap_export.activations.calibrate import collect_moments

    token_ids = _tokenize(source, {task: split.calibration for task, split in splits.items()}, settings.max_length)
    with progress.bar("calibrating " + ", ".join(splits), len(source.spec.layers)) as advance:
        moments = collect_moments(source, token_ids, max_batch_tokens=settings.batch_tokens, on_layer=advance)
    for task, split in splits.items():
        record = _record(task, source, split, settings, sum(map(len, token_ids[task])))
        with workspace.writing(calibration_step(task), keys[task], folder=True) as folder:
            write_calibration(folder, record, moments[task])


def _record(
    task: str, source: Source, split: Split, settings: CalibrationSettings, num_tokens: int
) -> CalibrationRecord:
    digests = split.digests()
    return CalibrationRecord(
        task=task,
        source_name=source.name,
        source_sha256=source.digest,
        seed=settings.seed,
        max_length=settings.max_length,
        num_tokens=num_tokens,
        calibration_texts=tuple(digests["calibration"]),
        held_out_texts=tuple(digests["held_out"]),
        held_out=tuple({"prompt": sample.prompt, "completion": sample.completion} for sample in split.held_out),
    )


def _tokenize(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of each task's texts, by the tokenizer files that the artifacts will carry."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        (Path(folder) / "config.json").write_text(json.dumps(dict(source.config)), "utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return {
        task: [ids[:max_length] for ids in tokenizer([sample.text for sample in samples])["input_ids"]]
        for task, samples in texts.items()
    }
