"""The parity step: chooses prompts and folders, and writes the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from seap_export.common.json_file import write_json
from seap_export.corpus import Task
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.folder.rounded import checked_note, opened_model
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.texts.chat import chat_of_folder
from validation.parity.origin import Origin
from validation.parity.report import ParityReport
from validation.parity.run import run_parity


def held_out_prompts(held_out: Sequence[Sequence[tuple[str, str]]], number: int) -> list[str]:
    """Up to `number` prompts for parity, taken from the tasks in turn.

    Args:
        held_out: For each task its held-out texts, each as prompt and completion; a text without a prompt gives its
            completion.
    """
    samples = [sample for turn in zip_longest(*held_out) for sample in turn if sample is not None]
    return [prompt or completion for prompt, completion in samples[:number]]


def prompts_of(variant: Variant, corpus: Path | None, number: int) -> list[str]:
    """The first prompts of a corpus, or the held-out prompts of the variant's task."""
    if corpus is not None:
        paths = (folder.path for folder in variant.folders.values())
        chat = next((chat_of_folder(path) for path in paths if (path / "tokenizer.json").is_file()), None)
        return [sample.prompt for sample in islice(Task("prompts", corpus).texts(chat), number)]
    by_task = [calibration.record.held_out for calibration in variant.calibrations()]
    pairs = [[(sample["prompt"], sample["completion"]) for sample in samples] for samples in by_task]
    return held_out_prompts(pairs, number)


def check_parity(
    variant: Variant,
    folder: str,
    runtime: str,
    prompts: list[str],
    settings: ParitySettings,
    on_progress: Callable[[str], None] | None = None,
    compute: Compute | None = None,
    on_memory: Callable[[str], None] | None = None,
) -> ParityReport:
    variant.require(HF, folder)
    note = checked_note(variant.path / folder)
    with opened_model(variant.path / folder) as model:
        return run_parity(
            model,
            variant.path / folder,
            prompts,
            origin=None if note is None else Origin(variant.hf, note.grid),
            runtime=runtime,
            execution=settings.execution(compute),
            decode_steps=settings.decode_steps,
            limits=settings.limits,
            long_tokens=settings.long_tokens,
            on_progress=on_progress,
            on_memory=on_memory,
        )


def write_report(report: ParityReport, path: Path) -> None:
    """Writes a parity report to a file as JSON."""
    write_json(path, report.to_json(), ensure_ascii=True)
