"""The quality gate: figures against their limits, and whether the error of a figure leaves that open.

The figure itself decides, never its error: equal texts give equal figures, so that running a gate again never changes
its verdict, and only more texts would tell what a figure near its limit is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from validation.estimate import Estimate


def retained(share: float | None, stderr: float | None, report: Mapping[str, Any], task: str) -> Estimate | None:
    """The share of the dense model's accuracy that a report records; None: the dense model answers nothing rightly.

    Args:
        share: The share.
    """
    if share is None:
        return None
    of_dense = ((report.get(kind) or {}).get("dense", {}).get(task) for kind in ("zero_shot", "generation"))
    questions = next((figures["questions"] for figures in of_dense if figures), 1)
    return Estimate(share, stderr, 1 if stderr is None else max(2, questions))


@dataclass(frozen=True)
class QualityVerdict:
    """A figure of a variant beside its limit.

    Attributes:
        form: The form that was run: `hf`, `onnx` or another.
        task: The task whose accuracy is judged; None: the divergence is judged.
        accuracy: The name of the accuracy, for messages; "" for the divergence.
        figure: The mean KL in nats per token, which is limited from above, or the share of the dense model's accuracy
            that is retained, from below; None: the dense model answers nothing rightly.
    """

    form: str
    task: str | None
    accuracy: str
    figure: Estimate | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit."""
        if self.figure is None:
            return False
        return self.figure.mean <= self.limit if self.task is None else self.figure.mean >= self.limit

    @property
    def close(self) -> str:
        """A remark if the true figure may be on the other side of the limit, with a way to decide it; else ""."""
        noun = "texts" if self.task is None else "questions"
        return "" if self.figure is None else self.figure.close_words(self.limit, noun)

    @property
    def result(self) -> str:
        """A line with the figure and its limit."""
        if self.task is None:
            assert self.figure is not None
            side = "within" if self.passed else "above"
            words = f"{self.form}: mean KL {self.figure.mean:.4g} nats is {side} {self.limit:g}"
        else:
            share = "nothing" if self.figure is None else f"{self.figure.mean:.2%}"
            side = "at least" if self.passed else "below"
            words = f"{self.form}: {self.task} retains {share} of {self.accuracy}, {side} {self.limit:.2%}"
        return f"{words}; {self.close}" if self.close else words

    def to_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "task": self.task,
            "figure": "mean_kl_nats" if self.task is None else "accuracy_retained",
            "limit": self.limit,
            "found": None if self.figure is None else self.figure.mean,
            "stderr": None if self.figure is None else self.figure.stderr,
            "verdict": "passed" if self.passed else "failed",
            "too_close_to_tell": bool(self.close),
        }
