"""The target for the time to the first token of an answer, and what was measured of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from seap_export.errors import UsageError
from validation.speed.interval import Interval

_FORM = re.compile(r"(?P<tokens>\d+):(?P<number>\d+(\.\d+)?|\.\d+)(?P<unit>ms|s|x)")


@dataclass(frozen=True)
class PromptTime:
    """The time to the first token of a prompt, beside that of the dense model in the usual precision.

    Attributes:
        ms: Milliseconds.
        ms_interval: Confidence interval of the milliseconds; None: there were too few runs.
    """

    ms: float
    speedup: float
    ms_interval: Interval | None = None
    speedup_interval: Interval | None = None

    @property
    def words(self) -> str:
        """Such as `first token after 212 ms (2.31 times as fast)`."""
        return f"first token after {self.ms:.3g} ms ({self.speedup:.2f} times as fast)"


@dataclass(frozen=True)
class FirstToken:
    """How soon the first token of an answer must be there: in a time on this machine, or so much sooner than before.

    Attributes:
        tokens: Tokens of the prompt.
        ms: Most milliseconds; None: the speed-up is asked for.
        speedup: Least speed-up over the dense model in the usual precision; None: the time is asked for.
    """

    #: What a user calls it.
    name: ClassVar[str] = "target_first_token"

    tokens: int
    ms: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.ms, self.speedup) if limit is not None]
        if len(limits) != 1 or self.tokens < 1 or not 0.0 < limits[0] < math.inf:
            raise ValueError("a prompt has tokens, and either a time or a speed-up above 0")

    @classmethod
    def parse(cls, text: str) -> FirstToken:
        """The target that a user gives as `512:250ms`, `512:0.25s` or `512:2x`.

        Raises:
            UsageError: It is malformed, or a number is 0.
        """
        given = _FORM.fullmatch(text.strip())
        try:
            if given is None:
                raise ValueError(text)
            number = float(given["number"])
            times = {"speedup": number} if given["unit"] == "x" else {"ms": number * (1e3, 1.0)[given["unit"] == "ms"]}
            return cls(int(given["tokens"]), **times)
        except ValueError as error:
            raise UsageError(
                f"{cls.name} {text!r:.40} is malformed or out of range; give TOKENS:TIME, such as 512:250ms, or "
                "TOKENS:FACTORx, such as 512:2x"
            ) from error

    def margin(self, prompt: PromptTime) -> float:
        """How many times as slow a variant might be and still meet it; below 1, it does not."""
        return prompt.speedup / self.speedup if self.speedup is not None else (self.ms or 0.0) / prompt.ms

    def surely(self, prompt: PromptTime) -> bool:
        """Whether the whole interval of a measurement meets it; without an interval, the measurement itself."""
        of_ms, of_speedup = prompt.ms_interval, prompt.speedup_interval
        ms, speedup = of_ms.high if of_ms else prompt.ms, of_speedup.low if of_speedup else prompt.speedup
        return self.margin(PromptTime(ms, speedup)) >= 1.0

    @property
    def words(self) -> str:
        """Such as `first token of 512 within 250 ms`."""
        within = f"within {self.ms:g} ms" if self.ms is not None else f"{self.speedup:g} times as fast"
        return f"first token of a prompt of {self.tokens} {within}"

    def to_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "ms": self.ms, "speedup": self.speedup}
