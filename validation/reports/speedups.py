"""Speed-ups over the dense model: read from a report, and in words. One is none if its interval contains 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from validation.reports.numbers import times
from validation.reports.reading import Json

Kind = Literal["decode", "prefill"]
NO_INTERVAL, NO_SPEEDUP = "no interval", "no speed-up"
#: The figures of a speed run that have limits, in words, and the one among them that is no speed-up.
JUDGED = {"decode_speedup": "decode", "prefill_speedup": "prefill", "bytes_ratio": "size on disk"}
SIZE = "bytes_ratio"
#: The time that a speed-up is about, by kind.
_TIMES = {"decode": "decode_ms_per_token", "prefill": "prefill_ms"}


@dataclass(frozen=True)
class MeasuredSpeedup:
    """A speed-up in one case.

    Attributes:
        batch: Prompts at once.
        depth: Tokens of each prompt.
        dense_ms: Milliseconds of the dense model for a token or a prompt.
        ms: Milliseconds of the variant.
        value: How many times as fast the variant is.
        low: The lower end of the interval of the true median; None: there were too few runs, or it was not recorded.
        high: The upper end of the interval; None: as for `low`.
        ideal: The speed-up that the smaller shapes would allow at best; None: not recorded.
        share: The share of the ideal speed-up that was reached; None: not recorded.
    """

    batch: int
    depth: int
    dense_ms: float
    ms: float
    value: float
    low: float | None
    high: float | None
    ideal: float | None
    share: float | None

    @property
    def words(self) -> str:
        """The speed-up in words, such as `1.20×`; see `speedup_in_words`."""
        return speedup_in_words(self.value, self.low, self.high)

    @property
    def interval(self) -> str:
        """The interval in words, such as `1.10 to 1.31`; see `interval_in_words`."""
        return interval_in_words(self.low, self.high)


def speedups(speed: Json | None, kind: Kind) -> list[MeasuredSpeedup]:
    """The speed-ups of each case that both models ran; none if the speed was not measured."""
    if speed is None:
        return []
    key, measured = _TIMES[kind], []
    dense = {(cell["batch"], cell["depth"]): cell[key] for cell in speed["dense"]}
    for cell in speed["variant"]:
        case = cell["batch"], cell["depth"]
        if case in dense and cell[key]:
            judged = _judged(speed, kind, case)
            low, high = ((cell.get(f"{kind}_speedup_{end}"), judged.get(end)) for end in ("low", "high"))
            measured.append(
                MeasuredSpeedup(
                    *case,
                    dense_ms=dense[case],
                    ms=cell[key],
                    value=cell.get(f"{kind}_speedup") or judged.get("found") or dense[case] / cell[key],
                    low=low[1] if low[0] is None else low[0],
                    high=high[1] if high[0] is None else high[0],
                    ideal=cell.get(f"{kind}_ideal_speedup"),
                    share=cell.get(f"{kind}_share_of_ideal"),
                )
            )
    return measured


def _judged(speed: Json, kind: Kind, case: tuple[int, int]) -> Json:
    """The verdict on a limit of this case, which repeats the interval; empty: there was no limit."""
    verdicts = (verdict for verdict in speed["verdicts"] if verdict["figure"] == f"{kind}_speedup")
    return next((verdict for verdict in verdicts if (verdict["batch"], verdict["depth"]) == case), {})


def speedup_in_words(value: float, low: float | None, high: float | None) -> str:
    """A speed-up: how many times as fast; that there is none, if the interval contains 1; or that it is slower."""
    if low is not None and high is not None and low <= 1 <= high:
        return NO_SPEEDUP
    return f"{times(value)}×" if value >= 1 else f"{times(value)}×, slower"


def case_in_words(batch: int | None, depth: int | None) -> str:
    """A case of a speed run: how many prompts at once, of how many tokens; "" if the figure is of none."""
    parts = ["" if batch is None else f"batch {batch}", "" if depth is None else f"{depth} tokens"]
    return ", ".join(part for part in parts if part)


def interval_in_words(low: float | None, high: float | None) -> str:
    """The interval of a speed-up in words, such as `1.10 to 1.31`; says so if there is none."""
    return NO_INTERVAL if low is None or high is None else f"{times(low)} to {times(high)}"
