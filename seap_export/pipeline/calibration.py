"""The calibration step: calibrates all tasks that are not calibrated yet, in one run over the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from seap_export.activations.statistics import Calibration, CalibrationRecord, CalibrationWriter
from seap_export.corpus import Sample, Split, Task, split_samples
from seap_export.errors import InputError
from seap_export.families.family import PRUNED_PREFIX
from seap_export.pipeline.checks import claim_folder
from seap_export.pipeline.keys import calibration_key
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.settings import CalibrationSettings, calibration_step
from seap_export.pipeline.workspace import Workspace
from seap_export.sources.source import Source
from validation.torch_runner import quiet_transformers

__all__ = ["calibrate_tasks", "split_tasks", "tokenize"]


def split_tasks(tasks: Sequence[Task], settings: CalibrationSettings) -> dict[str, Split]:
    """Each task's calibration and held-out texts."""
    return {task.name: _split(task, settings) for task in tasks}


def _split(task: Task, settings: CalibrationSettings) -> Split:
    split = split_samples(
        task.name,
        task.texts(),
        num_samples=settings.samples,
        num_held_out=settings.held_out,
        seed=settings.seed,
    )
    return replace(split, notice=task.notice)


def calibrate_tasks(
    source: Source,
    splits: Mapping[str, Split],
    settings: CalibrationSettings,
    workspace: Workspace,
    progress: Progress,
    variants: Collection[str] = (),
) -> dict[str, Calibration]:
    """Calibrates the tasks whose statistics are not in the workspace yet, and opens the statistics of all tasks.

    Args:
        source: The dense model.
        splits: The texts of each task.
        settings: How the texts are run.
        workspace: The output folder, locked.
        progress: Reports what happens.
        variants: Names of the variants that will be made from the statistics.

    Raises:
        UsageError: The workspace holds statistics made from other inputs, and there is no --force.
        InputError: The tokenizer, a text or a weight of the model cannot be used; no statistics were written.
        ArtifactError: Finished statistics are damaged, and there is no --force.
    """
    for split in splits.values():
        if split.notice:
            progress.warn(split.notice)
    with progress.step(f"hashing {source.name}", name="hashing"):
        keys = {task: calibration_key(source, split, settings) for task, split in splits.items()}
    claim_folder(workspace, source, keys, variants)
    missing = [task for task in splits if not workspace.is_done(calibration_step(task), keys[task])]
    for task in splits:
        if task not in missing:
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
    from seap_export.activations.calibrate import LayerStatistics, collect_statistics

    for name in ("norm", *(() if source.spec.tie_word_embeddings else ("lm_head",))):
        source.read_outer(name)  # not used here, but NaN weights should be reported before the work begins
    token_ids = tokenize(source, {task: split.calibration for task, split in splits.items()}, settings.max_length)
    bar = progress.step("calibrating " + ", ".join(splits), len(source.spec.layers), name="calibration")
    with ExitStack() as stack:
        writers = {
            task: stack.enter_context(
                CalibrationWriter(
                    stack.enter_context(workspace.writing(calibration_step(task), keys[task], folder=True)),
                    source.spec,
                )
            )
            for task in splits
        }

        def keep(index: int, statistics: Mapping[str, LayerStatistics]) -> None:
            for task, own in statistics.items():
                writers[task].write_layer(index, own)
            advance(index)

        with quiet_transformers(), bar as advance:
            sensitivity = collect_statistics(source, token_ids, keep, max_batch_tokens=settings.batch_tokens)
        for task, split in splits.items():
            record = _record(task, source, split, settings, sum(map(len, token_ids[task])))
            writers[task].finish(record, sensitivity[task], token_ids[task])


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


def tokenize(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, list[list[int]]]:
    """Token ids of each task's texts; a text without a token is left out.

    Raises:
        InputError: The tokenizer is damaged or belongs to another model, or no text of a task has a token.
    """
    token_ids = {}
    with quiet_transformers():
        tokenizer = _load_tokenizer(source)
        for task, samples in texts.items():
            sequences = tokenizer([sample.text for sample in samples])["input_ids"]
            token_ids[task] = [ids[:max_length] for ids in sequences if ids]
    for task, sequences in token_ids.items():
        if not sequences:
            raise InputError(f"task '{task}': the tokenizer gives no token for any text; use another corpus")
        largest = max(map(max, sequences))
        if largest >= source.spec.vocab_size:
            raise InputError(
                f"{source.name}: its tokenizer gives token id {largest}, its model has a vocabulary of "
                f"{source.spec.vocab_size}; use the tokenizer that belongs to the model"
            )
    return token_ids


def _load_tokenizer(source: Source) -> Any:
    """The tokenizer, loaded from the files that the artifacts will contain.

    For some model types (qwen2), transformers 5 ignores the tokenizer class that the files name.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        config = {**source.config, "model_type": PRUNED_PREFIX + source.spec.family.model_type}
        (Path(folder) / "config.json").write_text(json.dumps(config), "utf-8", newline="\n")
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # damaged files raise nearly anything, including a bare Exception of `tokenizers`
            reason = " ".join(str(error).split())
            raise InputError(f"{source.name}: its tokenizer cannot be loaded ({reason}); download it again") from error
