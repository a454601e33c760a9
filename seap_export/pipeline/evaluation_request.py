"""What of a variant's quality is to be measured, checked before any work begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seap_export.corpus import Task
from seap_export.errors import UsageError
from validation.quality import FORMS, Form

__all__ = ["EvaluationRequest"]


@dataclass(frozen=True)
class EvaluationRequest:
    """How a variant is compared with its dense model.

    Attributes:
        forms: The artifacts of the variant that are run: `hf`, `onnx` or both.
        texts: Corpora for the divergence; empty: the held-out texts of the variant's tasks.
        zero_shot: Task files with choices, for zero-shot accuracy.
        harness_tasks: Names of tasks of the lm-evaluation-harness.
        limit: Texts of each corpus and questions of each task, the first ones; None: all.
        max_length: Tokens after which a text is cut.
        batch_size: Sequences in a zero-shot batch.
        threads: Threads of torch and ONNX Runtime; None: all cores.
        max_kl: Largest mean KL divergence, nats a token, that passes; None: any.
        min_accuracy_retained: Smallest share of the dense model's accuracy that passes; None: any.
    """

    forms: tuple[Form, ...] = ("hf",)
    texts: tuple[Task, ...] = ()
    zero_shot: tuple[Task, ...] = ()
    harness_tasks: tuple[str, ...] = ()
    limit: int | None = None
    max_length: int = 256
    batch_size: int = 8
    threads: int | None = None
    max_kl: float | None = None
    min_accuracy_retained: float | None = None

    def __post_init__(self) -> None:
        if not self.forms or len(set(self.forms)) != len(self.forms) or not set(self.forms) <= set(FORMS):
            raise UsageError(f"--form must name one or more of {', '.join(FORMS)}, each once")
        for name, least in (("limit", 1), ("max_length", 2), ("batch_size", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value} is out of range; give at least {least}")
        for name, limit in (("max_kl", self.max_kl), ("min_accuracy_retained", self.min_accuracy_retained)):
            if limit is not None and not (0.0 <= limit < math.inf):
                raise UsageError(f"--{name.replace('_', '-')} {limit:g} is out of range; give a number from 0")
        names = [*(task.name for task in self.zero_shot), *self.harness_tasks]
        if len(set(names)) != len(names):
            raise UsageError("two zero-shot tasks have the same name; rename or drop one")
        if self.min_accuracy_retained is not None and not names:
            raise UsageError("--min-accuracy-retained needs a task: --zero-shot or --harness-task")

    @property
    def asks_questions(self) -> bool:
        """Whether zero-shot accuracy is measured at all."""
        return bool(self.zero_shot or self.harness_tasks)
