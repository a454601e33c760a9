"""The subject of an evaluation: a variant, or a dense model alone, and the folders of it that are run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from converters.formats import FORMATS
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME
from seap_export.corpus import check_disjoint, text_digest
from seap_export.errors import ArtifactError, InputError, UsageError, refuse_missing
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.evaluation.request import RUN_FOLDERS, EvaluationRequest
from seap_export.pipeline.folder.contents import Export, Variant
from seap_export.pipeline.folder.names import HF, PLAN
from seap_export.pipeline.folder.origin import refuse_another_model
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.texts.chat import ModelChat, chat_of_folder, chat_of_source
from seap_export.pruning.activations.statistics import CalibrationRecord
from seap_export.pruning.plan.plan import Plan
from validation.runtimes.table import REFERENCE, require_runtime, runtime_row


@dataclass(frozen=True)
class VariantRun:
    """A folder of a variant, and the runtime that runs it."""

    runtime: str
    folder: Path

    @property
    def label(self) -> str:
        """The run's name in reports: the folder, and the runtime if it is not the folder's usual one."""
        return self.folder.name if self.runtime in RUN_FOLDERS else f"{self.folder.name} in {self.runtime}"


@dataclass(frozen=True)
class Subject:
    """A variant and its dense model, or a dense model alone.

    Attributes:
        variant: The variant; None if a dense model is evaluated.
        records: The variant's calibration records; None if unknown.
        dense: The dense model; None if the variant is not compared with one.
    """

    name: str
    variant: Variant | None
    records: tuple[CalibrationRecord, ...] | None
    dense: Source | None

    def __post_init__(self) -> None:
        if self.variant is None and self.dense is None:
            raise ValueError("there is nothing to evaluate")

    @property
    def plan(self) -> Plan | None:
        """The plan of the variant; None for a dense model."""
        return None if self.variant is None else self.variant.plan

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens that the variant keeps; None: all."""
        return None if self.plan is None else self.plan.vocabulary

    def artifact(self, folder: str) -> Path:
        """The path of a folder of the variant, by its name."""
        if self.variant is None:
            raise ValueError("a dense model has no artifacts")
        return self.variant.path / folder

    def chat(self, request: EvaluationRequest) -> ModelChat:
        """The renderer of conversations: the variant's chat template, which is the dense model's."""
        if self.variant is not None:
            return chat_of_folder(self.artifact(request.tokenizer_folder))
        assert self.dense is not None
        return chat_of_source(self.dense)

    def run_by(self, runtime: str) -> VariantRun:
        """The folder of the variant that a runtime runs: the one in `RUN_FOLDERS`, or the first that it takes."""
        if runtime in RUN_FOLDERS:
            return VariantRun(runtime, self.artifact(RUN_FOLDERS[runtime]))
        runtime_row(runtime, REFERENCE)
        require_runtime(runtime)
        if self.variant is None:
            raise UsageError(f"--runtime {runtime} runs a folder of a variant, and this is none; leave it out")
        if (folder := self.variant.run_by(runtime)) is not None:
            return VariantRun(runtime, folder.path)
        raise UsageError(f"{self.variant.path}: no folder here runs in {runtime}; export it with another --format")

    def runs(self, request: EvaluationRequest) -> tuple[VariantRun, ...]:
        """The folders of the variant to run, each with its runtime; none for a dense model alone."""
        if request.folders:
            for runtime in set(request.runtimes) - {REFERENCE}:
                require_runtime(runtime)
            return tuple(VariantRun(runtime, self.artifact(folder)) for folder, runtime in request.folders)
        names = [name for name in request.runtimes if self.variant is not None or name not in RUN_FOLDERS]
        return tuple(map(self.run_by, names))

    def is_disjoint(self, what: str, texts: Iterable[tuple[str, str]]) -> bool | None:
        """Checks that no text was used in calibration; returns None if this is unknown."""
        if self.records is None:
            return None
        calibrated = {digest for record in self.records for digest in record.calibration_texts}
        answered = {digest for record in self.records for digest in record.calibration_prompts}
        digests = ((text_digest(text), text_digest(prompt)) for text, prompt in texts)
        try:
            check_disjoint(
                calibrated | answered,
                (of_prompt if of_prompt in answered else of_text for of_text, of_prompt in digests),
            )
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        return True


def usual_runtimes(path: str) -> tuple[str, ...]:
    """The default runtimes of a variant: our own if the variant has its format, or else torch."""
    variant = Variant(Path(os.path.expanduser(path)))
    is_shipped = variant.plan_file.is_file() and (variant.path / OWN_FORMAT).is_dir()
    return (OWN_RUNTIME if is_shipped else REFERENCE,)


def open_subject(path: str, dense: str | None, request: EvaluationRequest, progress: Progress) -> Subject:
    """Opens what is at a path, as far as the request needs it."""
    folder = Path(os.path.expanduser(path))
    if (export := Export(folder)).exists:
        example = next((variant.path for variant in export.variants), folder / "TASK-0.2")
        raise UsageError(f"{path} is a whole export; give a variant in it, such as {example}")
    variant = Variant(folder)
    if Variant(folder.parent).plan_file.is_file() and folder.is_dir():
        raise UsageError(f"{path} is part of a variant; give the variant's folder, {folder.parent}")
    if not variant.plan_file.is_file() and not any((folder / name).is_dir() for name in request.fixed_folders):
        return _dense_alone(path, dense, request)
    for part in (PLAN, *request.fixed_folders):
        if not (folder / part).exists():
            raise ArtifactError(f"{path}: {part} is missing; export the variant again")
    _refuse_useless(dense, request)
    return variant_subject(variant, None if dense is None else _dense_of(variant, dense, progress))


def variant_subject(variant: Variant, dense: Source | None) -> Subject:
    """A variant, and the dense model that it was made from."""
    return Subject(variant.name, variant, variant.records, dense)


def _dense_alone(path: str, dense: str | None, request: EvaluationRequest) -> Subject:
    if dense is not None:
        refuse_missing(Path(os.path.expanduser(path)))
    if dense is not None or request.texts or request.max_kl is not None or request.min_accuracy_retained is not None:
        raise UsageError(
            f"{path} is not a variant, so there is no dense model to compare it with; give a variant's folder, "
            "such as OUT/TASK-0.2, or leave out --dense, --text, --max-kl and --min-accuracy-retained"
        )
    if set(request.fixed_folders) - {HF}:
        raise UsageError(
            f"--runtime {OWN_RUNTIME} runs the {FORMATS[OWN_FORMAT].title} file of a variant, and {path} is a dense "
            "model; leave it out"
        )
    source = open_source(path)
    if not request.asks_questions:
        raise UsageError(
            "only answers to questions can be measured for a dense model; give --zero-shot NAME=FILE, "
            "--harness-task NAME or --generate NAME=FILE"
        )
    return Subject(source.name, None, None, source)


def _refuse_useless(dense: str | None, request: EvaluationRequest) -> None:
    if dense is not None:
        return
    if not request.asks_questions:
        raise UsageError(
            "nothing to evaluate; give --dense MODEL for the divergence, or a task: --zero-shot, --harness-task or "
            "--generate"
        )
    if request.texts or request.max_kl is not None or request.min_accuracy_retained is not None:
        raise UsageError("--text, --max-kl and --min-accuracy-retained need a baseline; give --dense MODEL")


def _dense_of(variant: Variant, dense: str, progress: Progress) -> Source:
    source = open_source(dense)
    progress.say(f"hashing {source.name}")
    refuse_another_model(source, variant.plan, "the variant")
    return source
