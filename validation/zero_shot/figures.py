"""The accuracy of one model on one zero-shot task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ZeroShotFigures:
    """The share of questions that a model answers correctly, compared with chance.

    Attributes:
        acc: Share of questions, 0 to 1, whose correct choice has the highest log-likelihood.
        acc_norm: `acc` with log-likelihoods divided by the choices' lengths in characters, without the leading
            space; None for a harness task that does not report it.
        acc_stderr: Standard error of `acc`, sample standard deviation / sqrt(questions); None for a single question.
        acc_norm_stderr: Standard error of `acc_norm`.
        chance: Accuracy of a random choice: mean of 1 / number of choices.
        sha256: Digest of all prompts and choices in order; equal digests mean the same questions.
        right: Whether the correct choice of each question has the highest log-likelihood, in order.
    """

    acc: float
    acc_norm: float | None
    acc_stderr: float | None
    acc_norm_stderr: float | None
    questions: int
    chance: float
    sha256: str
    right: tuple[bool, ...]

    def __post_init__(self) -> None:
        if self.questions < 1 or len(self.right) != self.questions:
            raise ValueError("an accuracy needs at least one question, and to know of each if it was right")
        shares = [self.acc, self.chance, *([] if self.acc_norm is None else [self.acc_norm])]
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("an accuracy must be from 0 to 1")

    @property
    def accuracy(self) -> float:
        """The figure by which models are compared on this task: `acc`."""
        return self.acc
