"""A measured mean and how sure it is: its standard error over independent texts or questions, and quantiles.

Tokens of one text depend on each other, so errors are those of sums over texts. All sums are exact (`math.fsum`), so
that nothing depends on the order of texts or on batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A mean is too close to a limit to tell on which side it is within this many standard errors.
_ERRORS = 2.0
#: The quantile of the normal distribution for 95 of 100 cases.
_Z = 1.959964
#: More texts than this are not named as a remedy.
_MOST_GROUPS = 100_000
_QUANTILES = {"median": 0.5, "p99": 0.99, "p999": 0.999}
_KEYS = tuple(f"{name}_kl_nats" for name in ("mean", *_QUANTILES, "max"))


@dataclass(frozen=True)
class Estimate:
    """A mean over independent groups, such as texts or questions.

    Attributes:
        mean: The sum over all groups / the size of all groups.
        stderr: Standard error of the mean; None: a single group has none.
    """

    mean: float
    stderr: float | None
    groups: int

    def __post_init__(self) -> None:
        if self.groups < 1 or (self.stderr is None) != (self.groups == 1):
            raise ValueError("an estimate needs a group, and a standard error if there are more")
        if not math.isfinite(self.mean) or not 0.0 <= (self.stderr or 0.0) < math.inf:
            raise ValueError("an estimate is finite, and its standard error at least 0")

    @classmethod
    def of_sums(cls, sums: Sequence[float], sizes: Sequence[float]) -> Estimate:
        """The ratio of two sums over groups: tokens, questions, or what a dense model answers rightly.

        With the sum S_i and the size n_i of group i, and m = sum S_i / sum n_i, the standard error of m is,
        linearised, sqrt(N / (N - 1) * sum (S_i - m n_i)^2) / sum n_i for N groups: the ratio estimator of Cochran,
        Sampling Techniques, chapter 6.
        """
        number, size = len(sums), math.fsum(sizes)
        mean = math.fsum(sums) / size
        if number < 2:
            return Estimate(mean, None, number)
        rest = math.fsum((part - mean * count) ** 2 for part, count in zip(sums, sizes, strict=True))
        return Estimate(mean, math.sqrt(number / (number - 1) * rest) / size, number)

    @classmethod
    def of_answers(cls, ours: Sequence[bool], others: Sequence[bool], *, share: bool) -> Estimate:
        """How much more accurate one model is than another on the same questions, or the share of its accuracy it has.

        The error counts one more question as half lost and half won, so that few questions without a difference do
        not seem certain: for a difference, about as Agresti and Min, Simple improved confidence intervals for
        comparing matched proportions, 2005, do.

        Args:
            ours: Whether each question was answered rightly.
            others: The same of the other model.
            share: Whether the share is asked for, and not the difference.

        Raises:
            ZeroDivisionError: The share of a model is asked for that answers nothing rightly.
        """
        sums = [int(one) - (0 if share else int(other)) for one, other in zip(ours, others, strict=True)]
        sizes = [int(other) if share else 1 for other in others]
        plain = cls.of_sums(sums, sizes)
        if plain.stderr is None:
            return plain
        number, size, mean = len(sums), sum(sizes), plain.mean
        lost, won = (-mean, 1.0) if share else (-1.0 - mean, 1.0 - mean)
        more = (lost**2 + won**2) / 2 * number / (number - 1) / size**2
        return cls(mean, math.sqrt(plain.stderr**2 + more), number)

    def is_close_to(self, limit: float) -> bool:
        """Whether the true mean may well be on the other side of a limit, or there is no error to tell."""
        return is_close(self.mean, self.stderr, limit)

    def close_words(self, limit: float, noun: str) -> str:
        """Says that the mean is too close to a limit to tell, and how many more groups would help; "" if it is not.

        The standard error falls with the root of the number of groups.

        Args:
            noun: What the groups are: "texts" or "questions".
        """
        if not self.is_close_to(limit):
            return ""
        if self.stderr is None:
            return f"too close to tell: a standard error needs at least two {noun}; give more"
        gap = abs(self.mean - limit)
        wanted = self.groups * (_ERRORS * self.stderr / gap) ** 2 if gap else math.inf
        more = f"about {_two_digits(wanted - self.groups):,}" if wanted < _MOST_GROUPS else f"over {_MOST_GROUPS:,}"
        return f"too close to tell: the standard error is {self.stderr:.2g}; {more} more {noun} would tell"


@dataclass(frozen=True)
class TokenEstimate(Estimate):
    """A mean over tokens, whose standard error is that over texts, and its distribution over tokens.

    Attributes:
        median: Half of the tokens have at most this value.
        p99: The 99th percentile over all tokens, interpolated linearly, as llama.cpp's `--kl-divergence` does.
        p999: The 99.9th percentile.
        max: The largest value.
        texts: The sum over the tokens of each text, and the number of its tokens.
    """

    median: float
    p99: float
    p999: float
    max: float
    texts: tuple[tuple[float, int], ...]

    @classmethod
    def of_texts(cls, texts: Iterable[NDArray[np.floating]]) -> TokenEstimate:
        """The estimate from one value per token of each text.

        Args:
            texts: The values of each text's tokens, [T] with T > 0.
        """
        values = [np.asarray(text, np.float64) for text in texts]
        sums = tuple((math.fsum(text), len(text)) for text in values)
        whole, merged = Estimate.of_sums(*_columns(sums)), np.concatenate(values)
        quantiles = (float(np.quantile(merged, share)) for share in _QUANTILES.values())
        spread = dict(zip(_QUANTILES, quantiles, strict=True))
        return cls(whole.mean, whole.stderr, whole.groups, **spread, max=float(merged.max()), texts=sums)

    @property
    def tokens(self) -> int:
        """Number of tokens of all texts together."""
        return sum(count for _, count in self.texts)

    def minus(self, other: TokenEstimate) -> Estimate | None:
        """The difference of two means over the same tokens, paired by text; None: the tokens are not the same."""
        (sums, sizes), (other_sums, other_sizes) = _columns(self.texts), _columns(other.texts)
        if sizes != other_sizes:
            return None
        return Estimate.of_sums([one - two for one, two in zip(sums, other_sums, strict=True)], sizes)

    def to_json(self) -> dict[str, Any]:
        """A KL divergence as the keys of a report, with what pairs it with another one."""
        return {**kl_json(self), "kl_nats_by_text": [list(text) for text in self.texts]}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> TokenEstimate:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: A key is missing, or a value is none that `to_json` writes.
        """
        texts = tuple((float(total), int(count)) for total, count in values["kl_nats_by_text"])
        mean, median, p99, p999, largest = (float(values[key]) for key in _KEYS)
        stderr = values[f"{_KEYS[0]}_stderr"]
        error = None if stderr is None else float(stderr)
        return cls(mean, error, len(texts), median, p99, p999, largest, texts)


def wilson(share: float, number: int) -> tuple[float, float]:
    """The interval that has the true share in 95 of 100 cases, from the share of so many questions.

    Unlike a standard error, it is right for few questions, and where all or none are answered rightly. Wilson,
    Probable inference, the law of succession, and statistical inference, 1927.
    """
    square = _Z**2 / number
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / number + square / (4 * number))
    return max(0.0, middle - half), min(1.0, middle + half)


def is_close(mean: float, stderr: float | None, limit: float) -> bool:
    """Whether a mean with this standard error is too close to a limit to tell on which side the true mean is."""
    return stderr is None or abs(mean - limit) < _ERRORS * stderr


def is_clearly_above(mean: float, stderr: float | None, limit: float) -> bool:
    """Whether a mean with this standard error is above a limit, and not so close to it that the true mean may not be.

    Without an error, the mean alone decides.
    """
    return mean > limit and (stderr is None or not is_close(mean, stderr, limit))


def kl_json(kl: TokenEstimate | None) -> dict[str, float | None]:
    """A KL divergence as the keys of a report, in nats per token; None: nothing was compared."""
    names = ("mean", *_QUANTILES, "max")
    values = {key: getattr(kl, name, None) for key, name in zip(_KEYS, names, strict=True)}
    return {**values, f"{_KEYS[0]}_stderr": getattr(kl, "stderr", None)}


def _columns(texts: Iterable[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Splits (sum, size) pairs into a list of sums and a list of sizes."""
    pairs = list(texts)
    return [total for total, _ in pairs], [count for _, count in pairs]


def _two_digits(number: float) -> int:
    """Rounds a number up to two significant digits; at least 1."""
    step = 10 ** max(0, math.floor(math.log10(max(number, 1.0))) - 1)
    return max(1, math.ceil(number / step) * step)
