"""`AnswerRule`: how the answer of a task is found in a text, and which examples a model is shown before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from seap_export.errors import InputError

#: The rule of GSM8K and the like.
LAST_NUMBER = "last number"
#: A minus sign counts unless it follows a word or a parenthesis, as in 7-5; commas separate thousands.
_NUMBER = re.compile(r"(?:(?<![\w)])-\$?)?[0-9][0-9,]*(?:\.[0-9]+)?")


@dataclass(frozen=True)
class AnswerRule:
    """How answers are found and when a text ends.

    Attributes:
        rule: `LAST_NUMBER`, or a regular expression whose only group is the answer, where it first matches.
        stop: Texts before which an answer ends.
        shots: How many examples come before each question.
        examples: The corpus they are taken from, in its order; None: there are none.
    """

    rule: str
    stop: tuple[str, ...] = ()
    shots: int = 0
    examples: Path | None = None

    def __post_init__(self) -> None:
        if self.rule != LAST_NUMBER:
            _refuse_other_patterns(self.rule)
        if not all(self.stop):
            raise InputError("'stop' contains an empty text, before which every answer ends; remove it")
        if self.shots < 0 or bool(self.shots) != (self.examples is not None):
            raise InputError(
                "'shots' and 'examples' belong together; write shots = 4 and the corpus that the examples are taken "
                "from, or neither"
            )

    def find(self, text: str) -> str | None:
        """The answer in a text; None if there is none.

        Numbers lose their commas, a dollar sign and zeros that mean nothing: `-$1,250.50.` gives `-1250.5`. What a
        regular expression finds loses the white space around it.
        """
        if self.rule == LAST_NUMBER:
            numbers = _NUMBER.findall(text)
            return _plain_number(numbers[-1]) if numbers else None
        match = re.search(self.rule, text)
        answer: str | None = match and match.group(1)
        return (answer or "").strip() or None

    def before_stop(self, text: str) -> str | None:
        """The text before the first of the stops; None if there is none in it."""
        starts = [start for stop in self.stop if (start := text.find(stop)) >= 0]
        return text[: min(starts)] if starts else None


def _refuse_other_patterns(rule: str) -> None:
    try:
        groups = re.compile(rule).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"'answer' is not a regular expression ({error}); correct it or write {LAST_NUMBER!r}"
        ) from error
    if groups != 1:
        raise InputError(
            f"'answer' has {groups} groups, and the only one must be the answer; write (?:...) for the others, or "
            f"{LAST_NUMBER!r}"
        )


def _plain_number(text: str) -> str:
    whole, _, fraction = text.replace(",", "").replace("$", "").lstrip("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if text.startswith("-") and number != "0" else number
