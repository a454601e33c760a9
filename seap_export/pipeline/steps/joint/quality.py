"""The quality of variants: each is compared with the dense model on held-out texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.common.providers import OWN_FORMAT
from seap_export.corpus import Task
from seap_export.errors import ArtifactError
from seap_export.pipeline.evaluation.asked import Asked, Scores
from seap_export.pipeline.evaluation.baselines import Baselines, baselines
from seap_export.pipeline.evaluation.quality import (
    MAX_LENGTH,
    QualityRequest,
    QualityWork,
    folder_quality_key,
    quality_key,
    quality_report,
    quality_request,
    quality_work,
    repeated_figures,
)
from seap_export.pipeline.evaluation.request import RUN_FOLDERS
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.names import HF, calibration_step, quality_file
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint.whole import WholeStep
from seap_export.pipeline.steps.step import Made, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps, sound
from seap_export.pipeline.texts.chat import chat_of_source
from seap_export.pipeline.texts.general_text import elsewhere_texts
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from seap_export.pruning.activations.statistics import Calibration, CalibrationRecord
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import claim_texts
from validation.divergence.paired import PairedText
from validation.execution import Execution

#: The names of quality reports.
_FILE = re.compile(r"quality(-.+)?\.json")
#: The name under which the run of the dense model is shown and recorded.
DENSE_TEXTS = "dense texts"


@dataclass(frozen=True)
class _Missing:
    """A folder that is to be compared with the dense model."""

    step: str
    key: str
    work: QualityWork
    request: QualityRequest
    asked: Asked
    has_learnt: bool

    @property
    def label(self) -> str:
        """The folder's name in its report."""
        (run,) = self.work.subject.runs(self.request.evaluation)
        return run.label


@dataclass(frozen=True)
class QualityStep(Step):
    """Writes a quality report for each folder of a variant that passed parity.

    Attributes:
        settings: The execution provider and the threads; the rest concerns parity.
        general_text: The corpus of the general text; None: the one that comes with the package.
        whole: The whole models that are compared with the dense model, too; None: there are none.
    """

    variants: Mapping[str, VariantSteps]
    tasks: tuple[str, ...]
    settings: ParitySettings
    general_text: Path | None
    whole: WholeStep | None = None
    questions: tuple[Task, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        whole = () if self.whole is None else self.whole.quality_names
        steps = (_step(name, folder) for name, variant in self.variants.items() for folder in variant.formats)
        return DENSE_TEXTS, *steps, *whole

    def run(self, made: Made) -> None:
        """Runs the dense model once, if anything is missing, and then each folder."""
        folders = sound(self.variants, made.variants, every=True)
        requests = {of: quality_request(of, self.settings, self.general_text) for of in folders}
        missing = [one for of, keys in folders.items() for one in self._missing(made, requests[of], keys)]
        compared = {} if self.whole is None else {of: self.whole.to_compare(made, requests[of]) for of in folders}
        if missing or any(compared.values()):
            self._measure(made, missing, {requests[of]: texts for of, texts in compared.items() if texts})
        for name, variant in made.variants.items():
            variant["quality"] = settled_quality(made.workspace, name)
            made.enter(name)

    def _missing(self, made: Made, request: QualityRequest, keys: Mapping[str, str]) -> list[_Missing]:
        """The measurements of a folder that are missing; `keys` holds the folder's key in each variant."""
        workspace, source, missing = made.workspace, made.work.source, []
        elsewhere = elsewhere_texts(_records(workspace), request.general_text, chat_of_source(source))
        for name, folder_key in keys.items():
            asked = self._asked(made, name)
            step = _step(name, request.measured.folder)
            key = quality_key(folder_key, request.max_length, elsewhere, asked.digest)
            if workspace.manifest.steps.get(step, key) != key:
                workspace.remove(step)  # it belongs to another folder, or lacks a task
            if workspace.is_done(step, key):
                continue
            work = quality_work(source, workspace.folder / name, elsewhere, request)
            if any(min(len(text.dense), len(text.variant)) > 1 for text in work.held_out_texts):
                missing.append(_Missing(step, key, work, request, asked, bool(self.variants[name].hf.learnt)))
            else:
                made.work.progress.warn(f"{name}: its held-out texts are too short to measure quality")
        return missing

    def _asked(self, made: Made, name: str) -> Asked:
        """The held-out questions of a variant's tasks; none, which is said, if they cannot be read or asked."""
        plan = self.variants[name].plan
        splits = {step.task: step.split for step in plan.ranking.calibrations}
        return made.questions([task for task in self.questions if task.name in plan.tasks], splits)

    def _baselines(self, one: _Missing) -> dict[str, Baselines]:
        """How the tasks that a variant has learnt are answered without a language model."""
        steps = self.variants[one.work.subject.name].plan.ranking.calibrations
        splits = {step.task: step.split for step in steps if step.split.is_learnt and step.split.held_out}
        found = {name: baselines(split.calibration, split.held_out) for name, split in splits.items()}
        return {name: of for name, of in found.items() if of is not None}

    def _measure(
        self,
        made: Made,
        missing: Sequence[_Missing],
        whole: Mapping[QualityRequest, Mapping[str, tuple[PairedText, ...]]],
    ) -> None:
        """Runs the dense model on the texts of all folders, and releases it before a folder is opened."""
        workspace, progress = made.workspace, made.work.progress
        execution = self.settings.execution(made.work.compute)
        with DenseAnswers(made.dense(), execution) as answers:
            sets = [one.work.texts for one in missing]
            sets += [pairs for of_one in whole.values() for pairs in of_one.values()]
            texts = tuple(dict.fromkeys(text.dense for of_one in sets for text in of_one))
            for one in missing:
                measured, run = one.request.measured, one.request.evaluation.execution(made.work.compute)
                path, texts_of = one.work.subject.artifact(measured.folder), [text.variant for text in one.work.texts]
                claim_texts(measured.runtime, path, texts_of, run, progress.say)
            label = "running the dense model on held-out texts"
            with progress.step(label, len(texts), "texts", name=DENSE_TEXTS) as done:
                stops = frozenset().union(*(one.work.dense_stops for one in missing))
                steps = max((one.work.answer_tokens for one in missing), default=0)  # of all: they share the model
                answers.run(texts, [one.work.prompts for one in missing], steps, stops, done)
            asked = {one.asked.digest: one.asked for one in missing if one.asked}
            if self.whole is not None:
                asked |= self.whole.asked(made, [name for names in whole.values() for name in names])
            scores = {digest: _of_dense(made, of, execution) for digest, of in asked.items()}
            for one in missing:
                name, folder = one.work.subject.name, one.request.measured.folder
                label = f"{name if folder == OWN_FORMAT else f'{name}/{folder}'}: comparing with the dense model"
                with progress.step(label, one.work.distinct, "texts", name=one.step) as done:
                    both = {}
                    if one.asked:
                        own = _answered(made, one)
                        both = {"dense": scores[one.asked.digest], one.label: own}
                    rules = {task.name: task.rule for task in one.asked.open}
                    simple = self._baselines(one) if one.has_learnt else {}
                    report = quality_report(one.work, answers, one.request, both, rules, simple, done)
                with workspace.writing(one.step, one.key, folder=False) as path:
                    write_json(path, report)
            for request, by_name in whole.items():
                for name, pairs in by_name.items():
                    assert self.whole is not None
                    self.whole.compare(made, name, pairs, answers, request, scores)


def _answered(made: Made, one: _Missing) -> Scores:
    """The answers of a folder, whose runtime may need the tokenizer of the model folder."""
    measured, subject = one.request.measured, one.work.subject
    folder = subject.artifact(measured.folder)
    tokenizer = folder if measured.runtime in RUN_FOLDERS else subject.artifact(HF)
    execution = one.request.evaluation.execution(made.work.compute)
    options: Any = {"runtime": measured.runtime, "tokenizer_folder": tokenizer}
    return one.asked.answered(folder, execution, has_learnt=one.has_learnt, **options)


def _of_dense(made: Made, asked: Asked, execution: Execution) -> Scores:
    made.work.progress.say("the dense model answers the held-out questions")
    with tokenizer_folder(made.work.source) as tokenizer:
        return asked.answered(made.dense(), execution, has_learnt=False, tokenizer_folder=tokenizer)


def settled_quality(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """The quality figures of a variant for the manifest; None if none were measured.

    A report of earlier files, which --force has replaced, is removed.
    """
    steps, variant = workspace.manifest.steps, Export(workspace.folder).variant(name)
    recorded = [step for step in steps if step.startswith(f"{name}/") and _FILE.fullmatch(step.rpartition("/")[2])]
    folder_keys = {_step(name, of.name): steps.get(f"{name}/{of.name}", "") for of in variant.formats}
    for step in recorded:
        is_of_folder = steps[step].partition("-")[0] == folder_quality_key(folder_keys.get(step, ""), MAX_LENGTH)
        if not is_of_folder or not workspace.is_done(step, steps[step]):
            workspace.remove(step)
    return repeated_figures([read_artifact(workspace.folder / step) for step in folder_keys if step in steps])


def _records(workspace: Workspace) -> list[CalibrationRecord]:
    """The calibration records of all tasks in the output folder whose statistics are still there."""
    records = []
    for task in workspace.manifest.tasks:
        with suppress(ArtifactError):
            records.append(Calibration(workspace.folder / calibration_step(task)).record)
    return records


def _step(variant: str, folder: str) -> str:
    return f"{variant}/{quality_file(folder)}"
