"""The result of an evaluation: figures, the verdict of the quality gate, and what is needed to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import gt, lt
from typing import Any, Literal, TypeVar

from seap_export.pipeline.evaluation.figures_json import (
    by_task_json,
    divergence_json,
    estimate_json,
    generation_json,
    plan_json,
    texts_json,
    zero_shot_json,
)
from seap_export.pipeline.evaluation.material import Texts
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.evaluation.verdicts import QualityVerdict
from seap_export.pipeline.texts.general_text import ElsewhereFigures
from validation.divergence.measure import DivergenceFigures
from validation.estimate import Estimate
from validation.generation import GenerationFigures
from validation.zero_shot import ZeroShotFigures

EVALUATION_SCHEMA = "seap-export/evaluation/2"
_Figures = ZeroShotFigures | GenerationFigures
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class TaskOrigin:
    """The origin of a task's questions."""

    origin: Literal["file", "hub"]
    split: str | None
    disjoint: bool | None
    num_fewshot: int = 0


@dataclass(frozen=True)
class EvaluationReport:
    """The results of an evaluation.

    Attributes:
        subject: The evaluated model.
        texts: The texts of the divergence; None if it was not measured.
        divergence: Results by form; empty if divergence was not measured.
        zero_shot: Results by form or "dense", then by task; empty if there were no such tasks.
        threads: Threads of torch and ONNX Runtime.
        versions: Versions of the libraries used.
        generation: Results of tasks whose answers are generated, by form or "dense", then by task.
        elsewhere: The divergence on further sets of texts, by form, then by name of the set; empty if there were none.
        planned: The plan of a dry run, without results: for each measurement its `measurement`, `name`, `items` (texts
            or questions; None if only the harness knows their number), `disjoint` and `models`.
    """

    subject: Subject
    request: EvaluationRequest
    texts: Texts | None
    divergence: Mapping[str, DivergenceFigures]
    tasks: Mapping[str, TaskOrigin]
    zero_shot: Mapping[str, Mapping[str, ZeroShotFigures]]
    threads: int
    versions: Mapping[str, str]
    generation: Mapping[str, Mapping[str, GenerationFigures]] = field(default_factory=dict)
    elsewhere: Mapping[str, Mapping[str, ElsewhereFigures]] = field(default_factory=dict)
    planned: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if bool(self.divergence) != (self.texts is not None):
            raise ValueError("a divergence and its texts belong together")
        if not any((self.divergence, self.zero_shot, self.generation, self.planned)):
            raise ValueError("an evaluation must measure something")
        for name in self.tasks:
            if len({figures.sha256 for figures in self._answers(name).values()}) != 1:
                raise ValueError(f"all models must get the same questions of {name}")

    def _answers(self, name: str) -> dict[str, _Figures]:
        """The results of one task, by form or "dense"."""
        results: tuple[Mapping[str, Mapping[str, Any]], ...] = (self.zero_shot, self.generation)
        return {form: by_task[name] for kind in results for form, by_task in kind.items() if name in by_task}

    @property
    def passed(self) -> bool:
        """Whether every given limit is met."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the quality gate failed; empty if it passed or there is no limit."""
        return tuple(verdict.result for verdict in self.verdicts if not verdict.passed)

    @property
    def verdicts(self) -> tuple[QualityVerdict, ...]:
        """Every limited figure with its limit; empty if there is no limit."""
        most, least = self.request.max_kl, self.request.min_accuracy_retained
        divergence = () if most is None else self.divergence.items()
        accuracy = () if least is None else self.accuracy_retained.items()
        return (
            *(QualityVerdict(form, None, "", figures.kl, most) for form, figures in divergence if most is not None),
            *(
                QualityVerdict(form, name, "exact match" if name in self._generated else "acc", share, least)
                for form, by_task in accuracy
                for name, share in by_task.items()
                if least is not None
            ),
        )

    @property
    def _generated(self) -> frozenset[str]:
        """The names of the tasks whose answers are generated."""
        return frozenset(name for by_task in self.generation.values() for name in by_task)

    @property
    def accuracy_retained(self) -> dict[str, dict[str, Estimate | None]]:
        """Accuracy of the variant / accuracy of the dense model, by form and task; None if the latter is 0.

        The accuracy is acc, or the exact match of generated answers. Errors are those of pairs of answers to the same
        question.
        """
        return self._beside_dense(
            lambda dense, variant: (
                Estimate.of_answers(variant.right, dense.right, share=True) if any(dense.right) else None
            )
        )

    @property
    def accuracy_difference(self) -> dict[str, dict[str, Estimate]]:
        """Accuracy of the variant - accuracy of the dense model, by form and task, with the paired standard error."""
        return self._beside_dense(lambda dense, variant: Estimate.of_answers(variant.right, dense.right, share=False))

    @property
    def kl_difference(self) -> dict[str, Estimate]:
        """The mean KL of each further form minus the first form's, paired on the same texts."""
        if not self.divergence:
            return {}
        first, *others = self.divergence
        differences = {form: self.divergence[form].kl.minus(self.divergence[first].kl) for form in others}
        return {form: difference for form, difference in differences.items() if difference is not None}

    @property
    def flipped(self) -> dict[str, dict[str, dict[str, int]]]:
        """How many answers changed between right and wrong from the dense model to the variant, by form and task."""
        return self._beside_dense(
            lambda dense, variant: {
                "right_to_wrong": sum(map(gt, dense.right, variant.right)),
                "wrong_to_right": sum(map(lt, dense.right, variant.right)),
            }
        )

    def _beside_dense(self, compared: Callable[[_Figures, _Figures], _Result]) -> dict[str, dict[str, _Result]]:
        """Compares the results of each form with the dense model's, by form and task."""
        results: dict[str, dict[str, _Result]] = {}
        for name in self.tasks:
            answers = self._answers(name)
            if (dense := answers.pop("dense", None)) is None:
                continue
            for form, variant in answers.items():
                results.setdefault(form, {})[name] = compared(dense, variant)
        return results

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks to show with the results: limits that are met closely, and checks that were not possible."""
        return (*(verdict.result for verdict in self.verdicts if verdict.passed and verdict.close), *self.remarks)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on overlap with the calibration texts that could not be checked."""
        unchecked = [name for name, task in self.tasks.items() if task.origin == "file" and task.disjoint is None]
        hub = [f"{name} ({task.split} split)" for name, task in self.tasks.items() if task.origin == "hub"]
        if self.texts is not None and self.texts.disjoint is None:
            unchecked.append("the texts")
        notes = list[str]()
        if hub and self.subject.variant is not None:
            notes.append(f"overlap with the calibration texts cannot be checked for hub data: {', '.join(hub)}")
        if unchecked and self.subject.variant is not None:
            listed = ", ".join(unchecked)
            notes.append(f"the calibration folder is missing, so overlap could not be checked for: {listed}")
        return tuple(notes)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every generated answer as JSON values, by model, then by task, in the order of the questions."""
        for model, by_task in self.generation.items():
            for task, figures in by_task.items():
                for answer in figures.answers:
                    yield {
                        "model": model,
                        "task": task,
                        "prompt": answer.prompt,
                        "completion": answer.text,
                        "found": answer.extracted,
                        "gold": answer.gold,
                        "right": answer.is_right,
                        "stopped": answer.is_stopped,
                    }

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; equal runs give equal values, without times and paths."""
        gated = self.request.max_kl is not None or self.request.min_accuracy_retained is not None
        return {
            "schema": EVALUATION_SCHEMA,
            **plan_json(self.subject),
            "dense": None
            if self.subject.dense is None
            else {"name": self.subject.dense.name, "sha256": self.subject.dense.digest},
            "verdict": ("passed" if self.passed else "failed") if gated else None,
            "reasons": list(self.reasons),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "limits": {
                "max_kl_nats": self.request.max_kl,
                "min_accuracy_retained": self.request.min_accuracy_retained,
            },
            "divergence": {form: divergence_json(figures) for form, figures in self.divergence.items()},
            "kl_difference": {form: estimate_json(difference) for form, difference in self.kl_difference.items()},
            **self._elsewhere_json(),
            "zero_shot": by_task_json(self.zero_shot, zero_shot_json),
            "generation": by_task_json(self.generation, generation_json),
            "accuracy_retained": by_task_json(self.accuracy_retained, lambda share: share and share.mean),
            "accuracy_retained_stderr": by_task_json(self.accuracy_retained, lambda share: share and share.stderr),
            "accuracy_difference": by_task_json(self.accuracy_difference, estimate_json),
            "flipped": self.flipped,
            "texts": None if self.texts is None else texts_json(self.texts, self.request.max_length),
            "tasks": {
                name: {**asdict(task), "sha256": next(iter(self._answers(name).values())).sha256}
                for name, task in self.tasks.items()
            },
            "limit": self.request.limit,
            "max_new_tokens": self.request.max_new_tokens if self.generation else None,
            "batch_size": self.request.batch_size,
            "threads": self.threads,
            "provider": self.request.provider,
            "versions": dict(sorted(self.versions.items())),
            "notes": list(self.notes),
        }

    def _elsewhere_json(self) -> dict[str, Any]:
        """The divergence on further sets of texts under `elsewhere`; an empty dict if it was not measured."""
        elsewhere = {
            form: {name: figures.to_json() for name, figures in by_name.items()}
            for form, by_name in self.elsewhere.items()
            if by_name
        }
        return {"elsewhere": elsewhere} if elsewhere else {}
