"""What to measure of a variant's quality, checked before any work begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seap_export.corpus import Task
from seap_export.errors import UsageError
from validation.quality import FORMS, Form

__all__ = ["EvaluationRequest"]


@dataclass(frozen=True)
class EvaluationRequest:
    """How to compare a variant with its dense model.

    Attributes:
        forms: The artifacts of the variant to run: `hf`, `onnx` or both.
        texts: Corpora for the divergence; empty: the held-out texts of the variant's tasks.
        zero_shot: Task files with choices, for zero-shot accuracy.
        harness_tasks: Names of lm-evaluation-harness tasks.
        limit: Use only the first `limit` texts of each corpus and questions of each task; None: all.
        max_length: Longer texts are truncated to this many tokens.
        batch_size: Sequences in a zero-shot batch.
        threads: Threads of torch and ONNX Runtime; None: all cores.
        provider: ONNX Runtime's execution provider; torch runs on the CPU.
        max_kl: Largest mean KL divergence, nats per token, that passes; None: no limit.
        min_accuracy_retained: Smallest share of the dense model's accuracy that passes; None: no limit.
    """

    forms: tuple[Form, ...] = ("hf",)
    texts: tuple[Task, ...] = ()
    zero_shot: tuple[Task, ...] = ()
    harness_tasks: tuple[str, ...] = ()
    limit: int | None = None
    max_length: int = 256
    batch_size: int = 8
    threads: int | None = None
    provider: str = "cpu"
    max_kl: float | None = None
    min_accuracy_retained: float | None = None

    def __post_init__(self) -> None:
        if not self.forms or len(set(self.forms)) != len(self.forms) or not set(self.forms) <= set(FORMS):
            raise UsageError(f"--form must name one or more of {', '.join(FORMS)}, each once")
        if self.provider != "cpu" and "onnx" not in self.forms:
            raise UsageError(f"--provider {self.provider} runs ONNX files; add --form onnx")
        for name, least in (("limit", 1), ("max_length", 2), ("batch_size", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value} is out of range; give at least {least}")
        for name, limit in (("max_kl", self.max_kl), ("min_accuracy_retained", self.min_accuracy_retained)):
            if limit is not None and not (0.0 <= limit < math.inf):
                raise UsageError(f"--{name.replace('_', '-')} {limit:g} is out of range; give 0 or more")
        names = [*(task.name for task in self.zero_shot), *self.harness_tasks]
        if len(set(names)) != len(names):
            raise UsageError("two zero-shot tasks have the same name; rename or remove one")
        if self.min_accuracy_retained is not None and not names:
            raise UsageError("--min-accuracy-retained needs a task; add --zero-shot or --harness-task")

    @property
    def asks_questions(self) -> bool:
        """Whether zero-shot accuracy is measured."""
        return bool(self.zero_shot or self.harness_tasks)
