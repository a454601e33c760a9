"""The result of a stage of a parity run: its figures, and which of them are beyond their limits, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import reduce
from operator import or_
from typing import Any, Literal

from validation.estimate import kl_json
from validation.metrics import Defect, LogitFigures, LogitIndex
from validation.parity.caches import CacheFigures
from validation.parity.profiles import ENOUGH_TOGETHER, Figure, Limit, Noise, Pass
from validation.prompts import Case

Stage = Literal["prefill", "decode"]
#: "not judged": a figure is beyond its limit, and there are too few tokens to tell a fault from rounding.
Verdict = Literal["passed", "failed", "not judged"]
FIGURE_WORDS: dict[Figure, str] = {
    "max_abs": "max abs",
    "cache_error": "cache error",
    "mean_kl": "mean KL",
    "clear_top1_agreement": "top-1 of clear choices",
}
_DEFECT_WORDS = {"nan": "NaN", "inf": "Inf"}


def round_beyond(value: float, digits: int = 2, *, down: bool = False) -> float:
    """The smallest float with that many significant digits that is at least `value` (positive or 0).

    With `down`, the largest that is at most `value`.
    """
    exact = Decimal(repr(value))
    if not exact:
        return 0.0
    rounding = ROUND_FLOOR if down else ROUND_CEILING
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=rounding))


@dataclass(frozen=True)
class StageResult:
    """The figures of a case's prefill or decode, with their limits.

    In decode, a place's position is the step, counted from 0; the cache is compared after the last step.
    """

    prompts: Case
    run: Pass
    stage: Stage
    figures: LogitFigures
    limits: tuple[Limit, ...]
    noise: Noise = Noise()
    cache: CacheFigures | None = None

    @property
    def case(self) -> str:
        """The case's name in reports, with the suffix of its pass."""
        return f"{self.prompts.name}{self.run.suffix}"

    @property
    def rows(self) -> int:
        """Number of prompts that ran together in this case."""
        return len(self.prompts.rows)

    def at(self, logit: LogitIndex) -> str:
        """The place of a logit in words: case, row, position or decode step, and token id."""
        position = "position" if self.stage == "prefill" else "decode step"
        return f"case '{self.case}', row {logit.row}, {position} {logit.position}, token id {logit.token_id}"

    def value_of(self, figure: Figure) -> float | None:
        """The value of a figure; None if it could not be measured."""
        if figure == "cache_error":
            return None if self.cache is None else self.cache.error
        value: float | None = getattr(self.figures, figure)
        return value

    @property
    def has_defect(self) -> bool:
        """Whether there is a defect that no limit excuses."""
        return bool(self.figures.defects) or (self.cache is not None and bool(self.cache.defect))

    @property
    def reasons(self) -> list[str]:
        """A line for each defect and each figure beyond its limit; empty if the stage did not fail."""
        reasons = [self._defect(defect) for defect in self.figures.defects]
        if self.cache is not None and self.cache.defect:
            reasons.append(f"{self.cache.defect}, after case '{self.case}'")
        beyond = [limit for limit in self.limits if self.exceeds(limit)]
        return [*reasons, *(self._beyond(limit) for limit in beyond if not self._may_be_chance(limit))]

    @property
    def verdict(self) -> Verdict:
        return "failed" if self.reasons else "not judged" if any(map(self.exceeds, self.limits)) else "passed"

    @property
    def few(self) -> str:
        """The mean KL and its limit, over so many tokens."""
        (limit,) = (limit.value for limit in self.limits if limit.figure == "mean_kl")
        tokens = counted(self.figures.tokens, "token")
        return f"mean KL {self.figures.mean_kl:.3g} > {limit:.3g} over {tokens} ({self.case}, {self.stage})"

    def _may_be_chance(self, limit: Limit) -> bool:
        return self.run.may_be_chance(limit, self.value_of(limit.figure), self.figures.tokens)

    def exceeds(self, limit: Limit) -> bool:
        """Whether this stage's value of the limit's figure is beyond the limit."""
        return limit.is_exceeded(self.value_of(limit.figure))

    @property
    def excess(self) -> float:
        """How many times its limit the worst figure is; 0 if nothing is finite."""
        return max((limit.excess(self.value_of(limit.figure)) for limit in self.limits), default=0.0)

    def _beyond(self, limit: Limit) -> str:
        value = round_beyond(self.value_of(limit.figure) or 0.0, 3, down=limit.is_least)
        what = f"{FIGURE_WORDS[limit.figure]} {value:g} {'<' if limit.is_least else '>'} {limit.value:g}"
        if limit.figure == "cache_error" and self.cache is not None:
            return f"{what} {self.cache.where}, after case '{self.case}'"
        if self.figures.worst is None:
            return what
        largest = "" if limit.figure == "max_abs" else "; the largest difference of a logit"
        return f"{what}{largest} at {self.at(self.figures.worst)}"

    def _defect(self, defect: Defect) -> str:
        if defect.kind == "shape":
            return f"{defect.detail}, in {self.stage} of case '{self.case}', row {defect.logit.row}"
        what = f"{_DEFECT_WORDS[defect.kind]} in the {defect.side}'s logits ({counted(defect.tokens, 'token')})"
        return f"{what}, first at {self.at(defect.logit)}"

    def to_json(self) -> dict[str, Any]:
        """The stage's figures, limits, noise and verdict as JSON values."""
        values = asdict(self.figures)
        del values["kl"]
        values |= kl_json(self.figures.kl)
        values["top1_agreement_stderr"] = values.pop("top1_stderr")
        values["top1_agreement_margin"] = values.pop("clear_top1_agreement")
        values["defects"] = list(values.pop("defects"))
        cache = self.cache
        return {
            "case": self.case,
            "stage": self.stage,
            "rows": self.rows,
            "limits": {limit.figure: limit.value for limit in self.limits},
            "noise": {name: value for name, value in asdict(self.noise).items() if value},
            "verdict": self.verdict,
            **values,
            "cache_error": None if cache is None else cache.error,
            "cache_max_abs": None if cache is None else cache.max_abs,
            "cache_defect": "" if cache is None else cache.defect,
        }


@dataclass(frozen=True)
class Together:
    """All tokens of a pass, which are judged together where a stage has too few.

    Attributes:
        mean_kl: Their mean KL, nats per token.
    """

    few: str
    tokens: int
    mean_kl: float
    limit: float

    @classmethod
    def of(cls, stages: Sequence[StageResult]) -> Iterator[Together]:
        """One for each pass whose verdict depends on it: the stages' own are too few, or lenient as they are few."""
        for run in dict.fromkeys(stage.run for stage in stages if stage.run.is_rounding):
            together = [stage for stage in stages if stage.run == run and stage.figures.kl is not None]
            tokens = sum(stage.figures.tokens for stage in together)
            total = sum((stage.figures.mean_kl or 0.0) * stage.figures.tokens for stage in together)
            noise = reduce(or_, (stage.noise for stage in together), Noise())
            limits = run.limits_for(noise, max(tokens, 1))
            (limit,) = (limit.value for limit in limits if limit.figure == "mean_kl")
            few = max((s for s in together if s.verdict == "not judged"), key=lambda s: s.excess, default=None)
            if few is not None or (tokens < ENOUGH_TOGETHER and total > limit * tokens):
                yield cls("" if few is None else few.few, tokens, total / tokens, limit)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the pass, as far as it depends on these tokens."""
        return "not judged" if self.tokens < ENOUGH_TOGETHER else "failed" if self.mean_kl > self.limit else "passed"

    @property
    def line(self) -> str:
        """The figures of the stage and of all tokens, in words."""
        sign = "<=" if self.mean_kl <= self.limit else ">"
        of_all = f"mean KL {self.mean_kl:.3g} {sign} {self.limit:.3g} over all {self.tokens} tokens"
        if self.verdict == "not judged":
            few = self.few or of_all
            return f"not judged: {few}; {self.tokens} tokens in all are too few to tell a fault from rounding"
        return f"{self.few}, too few alone: {of_all}"


def counted(count: int, noun: str) -> str:
    """The number and the noun, in the plural unless the number is 1: `2 tokens`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
