"""The answers of one model to one task, and figures such as the exact match."""

from __future__ import annotations

from dataclasses import dataclass

from validation.estimate import Estimate


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question, and the right one."""

    prompt: str
    text: str
    tokens: int
    is_stopped: bool
    extracted: str | None
    gold: str

    @property
    def is_right(self) -> bool:
        return self.extracted == self.gold


@dataclass(frozen=True)
class GenerationFigures:
    """How many questions a model answers rightly in its own words.

    Attributes:
        answers: At least one, in the order of the task.
        sha256: Digest of the questions; equal digests mean the same questions.
    """

    answers: tuple[Answer, ...]
    sha256: str

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("an exact match needs at least one question")

    @property
    def questions(self) -> int:
        """Number of questions that were asked."""
        return len(self.answers)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each question was answered rightly, in the order of the task."""
        return tuple(answer.is_right for answer in self.answers)

    @property
    def exact_match(self) -> float:
        """Share of questions, 0 to 1, whose generated answer is the right one."""
        return sum(self.right) / self.questions

    @property
    def exact_match_stderr(self) -> float | None:
        """Standard error of `exact_match` over the questions; None for a single one."""
        return Estimate.of_sums(self.right, [1] * self.questions).stderr

    @property
    def mean_tokens(self) -> float:
        """Mean number of generated tokens, without those that end a text."""
        return sum(answer.tokens for answer in self.answers) / self.questions

    @property
    def never_stopped(self) -> float:
        """Share of texts that neither ended nor reached a stop within the tokens that were allowed."""
        return sum(not answer.is_stopped for answer in self.answers) / self.questions

    @property
    def unanswered(self) -> float:
        """Share of generated texts, 0 to 1, in which no answer was found."""
        return sum(answer.extracted is None for answer in self.answers) / self.questions

    @property
    def accuracy(self) -> float:
        """The figure by which models are compared on this task: `exact_match`."""
        return self.exact_match
