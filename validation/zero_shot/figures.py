"""The outcome of one zero-shot task."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ZeroShotFigures"]


@dataclass(frozen=True)
class ZeroShotFigures:
    """How many questions of a task a model answers with its most likely choice, and what chance would give.

    Attributes:
        acc: Share of questions, 0 to 1, whose right choice has the highest log-likelihood.
        acc_norm: The same with log-likelihoods divided by the choices' lengths in characters, without the
            space in front; None for a harness task that does not have it.
        acc_stderr: Standard error of `acc`, sample standard deviation / sqrt(questions); None for one question.
        acc_norm_stderr: The same of `acc_norm`.
        questions: Questions answered.
        chance: The accuracy of a random choice: mean of 1 / number of choices.
        sha256: Digest of all prompts and choices, in order; equal digests mean the same questions.
    """

    acc: float
    acc_norm: float | None
    acc_stderr: float | None
    acc_norm_stderr: float | None
    questions: int
    chance: float
    sha256: str

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise ValueError("accuracy of no questions")
        shares = [self.acc, self.chance, *([] if self.acc_norm is None else [self.acc_norm])]
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("an accuracy is from 0 to 1")
