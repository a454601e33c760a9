"""Candidates for a variant that is to meet targets, and the figures that were measured of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from converters.format import Format
from seap_export.model.vocabulary.choice import VocabularySize
from seap_export.pipeline.targets.first_token import PromptTime
from seap_export.pruning.rounding.grid import USUAL_AVERAGE
from validation.estimate import TokenEstimate
from validation.speed.interval import Interval

#: Ratios are rounded to so many digits, so that `--ratio` with the number in a variant's name makes it again.
RATIO_DIGITS = 3


@dataclass(frozen=True)
class Candidate:
    """All choices for a variant. At ratio 0 it is a *way*: the choices that hold at every ratio.

    Attributes:
        ratio: Fraction of the weights to remove.
    """

    ratio: float
    format: Format
    vocabulary: VocabularySize = "all"

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio < 1.0 or round(self.ratio, RATIO_DIGITS) != self.ratio:
            raise ValueError(f"a ratio is at least 0, below 1, and has at most {RATIO_DIGITS} digits")

    @property
    def way(self) -> Candidate:
        """The candidate of the same format and vocabulary at ratio 0: the dense model, with the usual bits."""
        usual = self.format if self.format.average is None else self.format.mixed(USUAL_AVERAGE)
        return replace(self, ratio=0.0, format=usual)

    @property
    def smallest(self) -> Candidate:
        """The candidate with the fewest bits, where these are a choice."""
        least = self.format if self.format.average is None else self.format.mixed(self.format.averages[0])
        return replace(self, format=least)

    @property
    def label(self) -> str:
        """The format and vocabulary in words: `onnx int8`, or `onnx int8, vocabulary auto`."""
        label = f"{self.format.name} {self.format.precision}"
        return label if self.vocabulary == "all" else f"{label}, vocabulary {self.vocabulary}"


def ways(formats: Sequence[Format], vocabulary: VocabularySize) -> tuple[Candidate, ...]:
    """All combinations of the choices besides the ratio; a further choice is a further list of this product.

    Args:
        vocabulary: `auto` is tried beside the whole vocabulary; others are as asked for.
    """
    vocabularies: tuple[VocabularySize, ...] = ("all", "auto") if vocabulary == "auto" else (vocabulary,)
    return tuple(Candidate(0.0, format, tokens) for tokens, format in itertools.product(vocabularies, formats))


@dataclass(frozen=True)
class CandidateFigures:
    """The size and the divergence of a candidate, as an evaluation measured them.

    Attributes:
        kl: KL divergence from the dense model on the held-out texts, nats per token, with what dropped tokens lose.
        top1_agreement: Share of tokens, 0 to 1, after which both models predict the same most likely token.
        top1_stderr: The standard error of the agreement; None: there is only one text.
        lost_kl: The part of the KL that stands for dropped tokens; 0: all are kept.
    """

    bytes: int
    kl: TokenEstimate
    top1_agreement: float
    perplexity: float
    top1_stderr: float | None = None
    lost_kl: float = 0.0

    @classmethod
    def read(cls, values: Any) -> CandidateFigures:
        """Raises `KeyError`, `TypeError` or `ValueError` if a figure is missing or no number."""
        figures = [values[name] for name in ("bytes", "top1_agreement", "perplexity", "lost_kl_nats")]
        if not all(isinstance(value, int | float) for value in figures):
            raise TypeError("a figure is not a number")
        size, top1, perplexity, lost = figures
        error = values["top1_agreement_stderr"]
        return cls(size, TokenEstimate.read(values), top1, perplexity, None if error is None else float(error), lost)

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": self.bytes,
            **self.kl.to_json(),
            "lost_kl_nats": self.lost_kl,
            "top1_agreement": self.top1_agreement,
            "top1_agreement_stderr": self.top1_stderr,
            "perplexity": self.perplexity,
            "tokens": self.kl.tokens,
        }


@dataclass(frozen=True)
class Times:
    """The times of a candidate, measured beside the dense model in the usual precision.

    Attributes:
        interval: Its confidence interval; None: there were too few runs.
        prompt: The time to the first token; None: no target asks for it.
    """

    speedup: float
    interval: Interval | None = None
    prompt: PromptTime | None = None


@dataclass(frozen=True)
class Point:
    """A candidate that was evaluated.

    Attributes:
        key: Hash of everything that the figures depend on; None: they follow from the dense model and a prediction.
        ideal_speedup: The speed-up of a decode step if time were proportional to the bytes that it reads.
        speedup: The measured speed-up of a decode step; None: it was not measured.
        interval: Confidence interval of the measured speed-up; None: there were too few runs.
        prompt: The time to the first token; None: it was not measured.
    """

    candidate: Candidate
    figures: CandidateFigures
    key: str | None
    predicted_bytes: int
    ideal_speedup: float
    speedup: float | None = None
    interval: Interval | None = None
    prompt: PromptTime | None = None

    def timed(self, times: Times) -> Point:
        """The same, with its speeds."""
        return replace(self, speedup=times.speedup, interval=times.interval, prompt=times.prompt)

    def beats(self, other: Point) -> bool:
        """Whether it is at least as small and as near to the dense model, and better in one of the two."""
        (size, kl), (other_size, other_kl) = ((at.figures.bytes, at.figures.kl.mean) for at in (self, other))
        return (size, kl) != (other_size, other_kl) and size <= other_size and kl <= other_kl

    def to_json(self) -> dict[str, Any]:
        return {
            "ratio": self.candidate.ratio,
            "format": self.candidate.format.name,
            "precision": self.candidate.format.precision,
            "vocabulary": self.candidate.vocabulary,
            **self.figures.to_json(),
            "predicted_bytes": self.predicted_bytes,
            "decode_ideal_speedup": self.ideal_speedup,
            "decode_speedup": self.speedup,
            "decode_speedup_low": None if self.interval is None else self.interval.low,
            "decode_speedup_high": None if self.interval is None else self.interval.high,
            "first_token_ms": None if self.prompt is None else self.prompt.ms,
            "first_token_speedup": None if self.prompt is None else self.prompt.speedup,
            "key": self.key,
        }
