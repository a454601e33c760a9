"""The quality of variants: each is compared with the dense model on held-out texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.errors import ArtifactError
from seap_export.pipeline.cost.cost import Cost, Disk, Rates, prompt_factor
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.evaluation.quality import (
    MAX_LENGTH,
    QualityRequest,
    folder_quality_key,
    quality_figures,
    quality_key,
    quality_report,
    quality_request,
    quality_work,
)
from seap_export.pipeline.folder.names import QUALITY, calibration_step
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint.whole import WholeStep
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.step import Made, PathStep, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps, sound
from seap_export.pipeline.texts.chat import chat_of_source
from seap_export.pipeline.texts.general_text import GENERAL_TEXT, elsewhere_texts
from seap_export.pruning.activations.statistics import Calibration, CalibrationRecord
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import claim_texts

#: The name under which the run of the dense model is shown and recorded.
DENSE_TEXTS = "dense texts"


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    vocabulary = 8 * 4 * model.work.spec.vocab_size  # passes over the logits to compare them
    return tokens.held_out_tokens * ((model.active + model.head) / rates.operations + vocabulary / rates.memory_bytes)


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """The dense model's logits of all held-out texts, in float32."""
    return Disk(temporary=4 * model.work.spec.vocab_size * tokens.held_out_tokens + model.dense_folder_bytes)


@dataclass(frozen=True)
class QualityStep(Step):
    """Writes quality.json for each variant that passed parity.

    Attributes:
        variants: The variants' own steps, by name.
        tasks: All tasks.
        settings: The execution provider and the threads; the rest concerns parity.
        general_text: The corpus of the general text; None: the one that comes with the package.
        whole: The whole models that are compared with the dense model, too; None: there are none.
    """

    cost = Cost("quality", _seconds, effort=3.0, always=2.0, format_factor=prompt_factor, count_disk=_disk)

    variants: Mapping[str, VariantSteps]
    tasks: tuple[str, ...]
    settings: ParitySettings
    general_text: Path | None
    whole: WholeStep | None = None

    @property
    def names(self) -> tuple[str, ...]:
        whole = () if self.whole is None else self.whole.quality_names
        return DENSE_TEXTS, *map(_step, self.variants), *whole

    def planned_work(self, variant: VariantSteps, folder: Path, missing: Collection[PathStep]) -> list[PlannedWork]:
        if (folder / variant.plan.variant / QUALITY).exists():
            return []
        others = (*(task for task in self.tasks if task not in variant.plan.tasks), GENERAL_TEXT)
        return [variant.planned_work(self.cost, others)]

    def run(self, made: Made) -> None:
        """Runs the dense model once, if anything is missing, and then each variant.

        Raises:
            ArtifactError: A variant's logits are NaN or infinite.
            InputError: The general text cannot be used.
            EnvironmentFailure: The temporary folder is full.
        """
        for measured, keys in sound(self.variants, made.variants).items():
            self._measure(made, quality_request(measured, self.settings, self.general_text), keys)
        for name, variant in made.variants.items():
            variant["quality"] = settled_quality(made.workspace, name)
            made.enter(name)

    def _measure(self, made: Made, request: QualityRequest, folder_keys: Mapping[str, str]) -> None:
        """Runs the dense model on the texts of all variants, and releases it before a variant is opened."""
        workspace, source, progress = made.workspace, made.work.source, made.work.progress
        elsewhere = elsewhere_texts(_records(workspace), request.general_text, chat_of_source(source))
        keys = {name: quality_key(key, request.max_length, elsewhere) for name, key in folder_keys.items()}
        for name, key in keys.items():
            if workspace.manifest.steps.get(_step(name), key) != key:
                workspace.remove(_step(name))  # it belongs to another folder, or lacks a task
        missing = [name for name in keys if not workspace.is_done(_step(name), keys[name])]
        works = {name: quality_work(source, workspace.folder / name, elsewhere, request) for name in missing}
        for name, work in list(works.items()):
            if not any(min(len(text.dense), len(text.variant)) > 1 for text in work.held_out_texts):
                progress.warn(f"{name}: its held-out texts are too short to measure quality")
                del works[name]
        whole = {} if self.whole is None else self.whole.to_compare(made, request)
        if not works and not whole:
            return
        execution = request.evaluation.execution(made.work.compute)
        with DenseAnswers(made.dense(), execution) as answers:
            compared = [*(work.texts for work in works.values()), *whole.values()]
            texts = tuple(dict.fromkeys(text.dense for of_one in compared for text in of_one))
            measured = request.measured
            for work in works.values():
                texts_of = [text.variant for text in work.texts]
                claim_texts(
                    measured.runtime, work.subject.artifact(measured.folder), texts_of, execution, progress.say
                )
            label = "running the dense model on held-out texts"
            with progress.step(label, len(texts), "texts", name=DENSE_TEXTS) as done:
                stops = frozenset().union(*(work.dense_stops for work in works.values()))
                steps = max(
                    (work.answer_tokens for work in works.values()), default=0
                )  # the same of all: they share the model
                answers.run(texts, [work.prompts for work in works.values()], steps, stops, done)
            for name, work in works.items():
                label = f"{name}: comparing with the dense model"
                with progress.step(label, work.distinct, "texts", name=_step(name)) as done:
                    report = quality_report(work, answers, request, done)
                with workspace.writing(_step(name), keys[name], folder=False) as path:
                    write_json(path, report)
            if self.whole is not None:
                for name, pairs in whole.items():
                    self.whole.compare(made, name, pairs, answers, request)


def settled_quality(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """The quality figures of a variant for the manifest; None if none were measured.

    A report of earlier files, which --force has replaced, is removed.

    Raises:
        ArtifactError: The report was changed since, and there is no --force.
    """
    step, manifest = _step(name), workspace.manifest
    if step not in manifest.steps:
        return None
    key = manifest.steps[step]
    known = [known_key for other, known_key in manifest.steps.items() if other.startswith(f"{name}/")]
    is_of_folder = key.partition("-")[0] in (folder_quality_key(known_key, MAX_LENGTH) for known_key in known)
    if is_of_folder and workspace.is_done(step, key):
        return quality_figures(read_artifact(workspace.folder / step))
    workspace.remove(_step(name))
    return None


def _records(workspace: Workspace) -> list[CalibrationRecord]:
    """The calibration records of all tasks in the output folder whose statistics are still there."""
    records = []
    for task in workspace.manifest.tasks:
        with suppress(ArtifactError):
            records.append(Calibration(workspace.folder / calibration_step(task)).record)
    return records


def _step(variant: str) -> str:
    return f"{variant}/{QUALITY}"
