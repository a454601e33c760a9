"""The answers of one model to one task, and what is counted of them."""

from __future__ import annotations

from dataclasses import dataclass

from validation.estimate import Estimate


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        prompt: The prompt, without examples.
        text: What followed, as far as the first stop.
        tokens: How many tokens were generated, without one that ends the text.
        is_stopped: Whether it ended by itself: by such a token, or by one of the task's stops.
        extracted: The answer in it; None: there is none.
        gold: The right answer.
    """

    prompt: str
    text: str
    tokens: int
    is_stopped: bool
    extracted: str | None
    gold: str

    @property
    def is_right(self) -> bool:
        """Whether both answers are the same."""
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
        """Number of questions."""
        return len(self.answers)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each question was answered rightly."""
        return tuple(answer.is_right for answer in self.answers)

    @property
    def exact_match(self) -> float:
        """Share of questions, 0 to 1, whose generated answer is the right one."""
        return sum(self.right) / self.questions

    @property
    def exact_match_stderr(self) -> float | None:
        """Its standard error over questions; None for one question."""
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
        """Share of texts in which no answer was found."""
        return sum(answer.extracted is None for answer in self.answers) / self.questions

    @property
    def accuracy(self) -> float:
        """What is compared with other models."""
        return self.exact_match
