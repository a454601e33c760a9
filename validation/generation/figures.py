"""The result of one task whose answers are generated, and what changed between two results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answer", "GenerationFigures", "figures_of"]


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: The text, as far as the first stop.
        tokens: How many tokens were generated, without one that ends the text.
        is_stopped: Whether it ended by itself: by such a token, or by one of the task's stops.
        found: The answer in it; None: none was found.
        gold: The right answer.
    """

    text: str
    tokens: int
    is_stopped: bool
    found: str | None
    gold: str

    @property
    def is_right(self) -> bool:
        """Whether both answers are the same."""
        return self.found == self.gold


@dataclass(frozen=True)
class GenerationFigures:
    """How many questions a model answers rightly in its own words.

    Attributes:
        exact_match: Share of questions, 0 to 1, whose generated answer is the right one.
        exact_match_stderr: Its standard error, sample standard deviation / sqrt(questions); None for one question.
        questions: Number of questions.
        mean_tokens: Mean number of generated tokens, without those that end a text.
        never_stopped: Share of texts that neither ended nor reached a stop within the tokens that were allowed.
        unanswered: Share of texts in which no answer was found.
        right: Whether each question was answered rightly, in the order of the task.
        sha256: Digest of the questions; equal digests mean the same questions.
        samples: The first answers.
    """

    exact_match: float
    exact_match_stderr: float | None
    questions: int
    mean_tokens: float
    never_stopped: float
    unanswered: float
    right: tuple[bool, ...]
    sha256: str
    samples: tuple[Answer, ...]

    def __post_init__(self) -> None:
        if self.questions < 1 or len(self.right) != self.questions:
            raise ValueError("an exact match needs at least one question, and to know of each if it was right")
        if not all(0.0 <= share <= 1.0 for share in (self.exact_match, self.never_stopped, self.unanswered)):
            raise ValueError("a share must be from 0 to 1")

    @property
    def accuracy(self) -> float:
        """What is compared with other models."""
        return self.exact_match


def figures_of(answers: Sequence[Answer], sha256: str, samples: int) -> GenerationFigures:
    """The figures of answers in the order of the questions, with the first few as samples."""
    number, right = len(answers), tuple(answer.is_right for answer in answers)
    share = sum(right) / number
    return GenerationFigures(
        exact_match=share,
        exact_match_stderr=math.sqrt(share * (1 - share) / (number - 1)) if number > 1 else None,
        questions=number,
        mean_tokens=sum(answer.tokens for answer in answers) / number,
        never_stopped=sum(not answer.is_stopped for answer in answers) / number,
        unanswered=sum(answer.found is None for answer in answers) / number,
        right=right,
        sha256=sha256,
        samples=tuple(answers[:samples]),
    )
