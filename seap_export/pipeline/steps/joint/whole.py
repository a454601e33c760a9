"""Makes the whole model, merely rounded, in a hidden folder, so that variants are measured beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seap_export.common.checksums import shipped_bytes
from seap_export.common.hashing import sha256_json
from seap_export.corpus import Task
from seap_export.errors import ArtifactError, InputError, ParityFailure, UsageError
from seap_export.model.sources.source import Source
from seap_export.pipeline.card.command import whole_command
from seap_export.pipeline.card.recipe import given_as, model_name
from seap_export.pipeline.evaluation.asked import SHOWN, Asked, Scores
from seap_export.pipeline.evaluation.figures_json import by_task_json, divergence_json, generation_json, zero_shot_json
from seap_export.pipeline.evaluation.memory import memory_of
from seap_export.pipeline.evaluation.quality import MAX_LENGTH, QualityRequest, folder_quality_key
from seap_export.pipeline.evaluation.speed import speed_request, speed_setting
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.texts import paired_texts
from seap_export.pipeline.folder.names import QUALITY
from seap_export.pipeline.folder.performance import Performance
from seap_export.pipeline.folder.whole import read_whole, write_whole
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.dense_size import unusual_options
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.whole import WholeModel, whole_models
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep
from seap_export.pipeline.steps.single.whole import WholeRoundingStep
from seap_export.pipeline.steps.step import Made, PathStep, Step, run_steps
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import claim_texts, measure_divergence
from validation.divergence.paired import PairedText

#: Kept for a run that goes on after an interruption, and removed by the next export that finishes.
WHOLE_FOLDER = ".seap-export-unfinished-whole"
#: What an attempt may fail with; the reason then stands in the place of the figures.
REFUSALS = (ArtifactError, InputError, ParityFailure, UsageError)


@dataclass(frozen=True)
class WholeSteps:
    """The steps that make one whole model."""

    model: WholeModel
    ranking: RankingStep
    written: FormatStep | None
    questions: tuple[Task, ...] = ()

    @property
    def all(self) -> tuple[PathStep, ...]:
        if self.written is None:
            return ()
        before, plan = self.written.before, self.written.plan
        rounded = [before] if isinstance(before, WholeRoundingStep) else []
        return (plan, before.before if rounded else before, *rounded, self.written)

    @property
    def calibrations(self) -> tuple[CalibrationStep, ...]:
        """The steps whose texts it is rounded with, or those of its task."""
        before = None if self.written is None else self.written.before
        return before.calibrations if isinstance(before, WholeRoundingStep) else self.ranking.calibrations

    @property
    def texts(self) -> tuple[str, ...]:
        """The held-out texts that it is measured on, which are those of the variants."""
        splits = (step.split for step in self.ranking.calibrations)
        return tuple(dict.fromkeys(sample.text for split in splits for sample in split.held_out))

    @cached_property
    def key(self) -> str:
        """The hash of everything that its figures depend on; "" if it cannot be written."""
        if self.written is None:
            return ""
        rules = [repr((task.completion, task.answer, *([SHOWN] if task.is_learnt else []))) for task in self.questions]
        return folder_quality_key(sha256_json([self.written.key, self.texts, *([rules] if rules else [])]), MAX_LENGTH)

    def asked(self, made: Made) -> Asked:
        """The held-out questions that it answers."""
        splits = {step.task: step.split for step in self.ranking.calibrations}
        return made.questions(self.questions, splits)


@dataclass(frozen=True)
class WholeStep(Step):
    """Makes the models of which a figure is missing, for the steps that measure quality and speed."""

    models: Mapping[str, WholeSteps]
    request: ExportRequest

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.name for steps in self.models.values() for step in steps.all))

    @property
    def quality_names(self) -> tuple[str, ...]:
        """The names under which the comparisons with the dense model are shown and recorded."""
        return tuple(f"{name}/{QUALITY}" for name, steps in self.models.items() if steps.written is not None)

    def run(self, made: Made) -> None:
        """Makes the missing models; for one that cannot be made, the reason takes the place of its figures."""
        known, source = read_whole(made.work.folder), made.work.source
        before = {name: dict(row) for name, row in known.items()}
        for name, steps in self.models.items():
            if not self._lacks(source, steps, known, made.performance):
                continue
            known[name] = self._described(made, steps)
            if name in before and before[name]["key"] == steps.key:
                known[name]["quality"] = before[name]["quality"]
            try:
                made.whole[name] = self.make(made, name)
            except REFUSALS as error:
                known[name]["refusal"] = str(error)
            else:
                known[name]["bytes"] = shipped_bytes(made.whole[name])
                known[name]["memory_about"] = memory_of(made.whole[name], steps.model.format)
        if known != before:
            write_whole(known, made.work.folder)

    def _lacks(self, source: Source, steps: WholeSteps, known: Mapping[str, Any], performance: Performance) -> bool:
        row = known.get(steps.model.name, {})
        if row.get("key") != steps.key:
            return True
        if row["refusal"]:
            return False
        return self._lacks_quality(row) or (
            bool(self.request.speed) and not self._is_timed(source, steps, performance)
        )

    def _lacks_quality(self, row: Mapping[str, Any]) -> bool:
        return bool(self.request.quality) and row["quality"] is None

    def _is_timed(self, source: Source, steps: WholeSteps, performance: Performance) -> bool:
        settings, prompts = self.request.parity, self.request.timed_prompts
        request = speed_request(source.spec, steps.model.measured, settings, prompts)
        entry = performance.speed.get(steps.model.name, {})
        return (entry.get("whole"), entry.get("setting")) == (steps.key, speed_setting(request))

    def _described(self, made: Made, steps: WholeSteps) -> dict[str, Any]:
        """The entry of a model in whole.json before it is measured."""
        model, request = steps.model, self.request
        unusual = {} if model.format is None else unusual_options(model.format)
        dense = model_name(made.work.source, made.workspace.manifest.source["name"])
        asked = (model.mixture.name, model.precision, unusual)
        return {
            "task": model.mixture.name,
            "precision": model.precision,
            "beside": model.measured.format.precision,
            "options": unusual,
            "command": whole_command(dense, request, *asked, lambda task: given_as(task, request), "pruned"),
            "refusal": model.refusal,
            "statistics": {step.name: step.key for step in steps.calibrations},
            "key": steps.key,
            "bytes": None,
            "memory_about": None,
            "quality": None,
        }

    def make(self, made: Made, name: str) -> Path:
        """Makes what is missing of a model's steps, and returns its folder."""
        steps = self.models[name]
        if steps.model.format is None or steps.written is None:
            raise UsageError(steps.model.refusal)
        with tokenizer_folder(made.work.source) as folder:
            if (refusal := steps.model.format.refusal(made.work.source.spec, folder)) is not None:
                raise InputError(refusal)
        hidden = Workspace(made.work.folder / WHOLE_FOLDER, force=True)
        with hidden.locked():
            work = replace(made.work, folder=hidden.folder, shared=made.work.folder)
            if not hidden.is_done(steps.written.name, steps.written.key):
                run_steps(steps.all, Made(work, hidden))
            if isinstance(steps.written.before, WholeRoundingStep):
                hidden.remove(steps.written.before.name)  # as large as the model in float32
                hidden.manifest.write(hidden.folder)
        return hidden.folder / steps.written.name

    def to_time(self, made: Made, measured: Measured) -> dict[str, WholeSteps]:
        """The models that were made because their speed is missing, beside variants that are measured so."""
        source = made.work.source
        return {
            name: steps
            for name, steps in self._made_beside(made, measured)
            if self.request.speed and not self._is_timed(source, steps, made.performance)
        }

    def to_compare(self, made: Made, request: QualityRequest) -> dict[str, tuple[PairedText, ...]]:
        """The held-out texts of the models that were made because their quality is missing, by name."""
        known, source, texts = read_whole(made.work.folder), made.work.source, dict[str, tuple[PairedText, ...]]()
        execution, most = request.evaluation.execution(made.work.compute), request.max_length
        for name, steps in self._made_beside(made, request.measured):
            if not self._lacks_quality(known[name]):
                continue
            subject = Subject(name, None, None, source)
            most = min(most, source.spec.max_position_embeddings)
            pairs = paired_texts(subject, source, made.whole[name], steps.texts, most)
            if any(len(pair.dense) > 1 for pair in pairs):
                claim_texts(
                    request.measured.runtime,
                    made.whole[name],
                    [pair.variant for pair in pairs],
                    execution,
                    made.work.progress.say,
                )
                texts[name] = pairs
            else:  # a variant's quality cannot be measured either
                known[name]["quality"] = {"divergence": {}, **request.measured.to_json()}
                write_whole(known, made.work.folder)
        return texts

    def _made_beside(self, made: Made, measured: Measured) -> Iterator[tuple[str, WholeSteps]]:
        for name, steps in self.models.items():
            if name in made.whole and steps.model.measured == measured:
                yield name, steps

    def asked(self, made: Made, names: Sequence[str]) -> dict[str, Asked]:
        """The questions that some of the models answer, by their digest."""
        asked = {name: self.models[name].asked(made) for name in names}
        return {of.digest: of for of in asked.values() if of}

    def compare(
        self,
        made: Made,
        name: str,
        pairs: tuple[PairedText, ...],
        answers: DenseAnswers,
        request: QualityRequest,
        scores: Mapping[str, Scores],
    ) -> None:
        """Compares a model with the dense model, and writes the figures down."""
        known, measured, folder = read_whole(made.work.folder), request.measured, made.whole[name]
        label = f"{name}: comparing with the dense model"
        with made.work.progress.step(label, len(pairs), "texts", name=f"{name}/{QUALITY}") as done:
            options: Any = {"execution": request.evaluation.execution(made.work.compute), "on_progress": done}
            reference = answers.reference([pair.dense for pair in pairs])
            try:
                figures = measure_divergence(reference, folder, measured.runtime, texts=pairs, **options)
                answered = self._answered(made, name, request, scores)
            except REFUSALS as error:
                known[name]["refusal"] = str(error)
            else:
                divergence = {measured.folder: divergence_json(figures)}
                known[name]["quality"] = {"divergence": divergence, **measured.to_json(), **answered}
        write_whole(known, made.work.folder)

    def _answered(
        self, made: Made, name: str, request: QualityRequest, scores: Mapping[str, Scores]
    ) -> dict[str, Any]:
        """How a model and the dense model answer the questions, as a report of quality has it."""
        asked, folder = self.models[name].asked(made), made.whole[name]
        if not asked:
            return {}
        execution = request.evaluation.execution(made.work.compute)
        options: Any = {"runtime": request.measured.runtime, "tokenizer_folder": folder}
        own = asked.answered(folder, execution, has_learnt=False, **options)
        both = {"dense": scores[asked.digest], request.measured.folder: own}
        return {
            "zero_shot": by_task_json({of: one.zero_shot for of, one in both.items()}, zero_shot_json),
            "generation": by_task_json({of: one.generation for of, one in both.items()}, generation_json),
        }


def whole_step(source: Source, request: ExportRequest, rankings: Mapping[str, RankingStep]) -> WholeStep | None:
    """The step for a request; None if no whole model is measured beside its variants."""
    models = whole_models(request.variants.values(), request.learnt) if request.quality or request.speed else ()
    if not models:
        return None
    calibrations = {step.name: step for ranking in rankings.values() for step in ranking.calibrations}
    hf = ShrinkStep(PlanStep(rankings[models[0].mixture.name], 0.0))
    steps = {}
    for model in models:
        ranking, grid, written = rankings[model.mixture.name], model.grid(source.spec), None
        if model.format is not None:
            before = hf if grid is None else WholeRoundingStep(hf, grid, tuple(calibrations.values()))
            written = FormatStep(before, f"{model.format.name}-{model.precision}", model.format)
        of_tasks = tuple(task for task in request.tasks if task.name in ranking.tasks and task.says_what_is_right)
        steps[model.name] = WholeSteps(model, ranking, written, of_tasks)
    return WholeStep(steps, request)
